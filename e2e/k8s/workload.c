/* What runs in the test bed's `nginx` image (there is no registry to pull the real one from): every few seconds
   a line that says whether the Kubernetes service address accepts a connection from inside this container. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }

static const char *service(const char *host, const char *port) {
  if (!host || !port) return "unset";
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
  if (inet_pton(AF_INET, host, &to.sin_addr) != 1) return "unreadable";
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval patience = {.tv_sec = 3};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  int failed = connect(fd, (struct sockaddr *)&to, sizeof to);
  close(fd);
  return failed ? "silent" : "answers";
}

int main(void) {
  signal(SIGTERM, end);
  setvbuf(stdout, 0, _IOLBF, 0);
  for (;;) {
    const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
    printf("kubernetes %s:%s %s\n", host ? host : "-", port ? port : "-", service(host, port));
    sleep(2);
  }
}
