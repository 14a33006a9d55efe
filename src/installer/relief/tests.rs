//! Relief on real sockets: ports are the system's, and every wait is for a condition.

use std::sync::atomic::AtomicBool;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Far longer than anything here takes; reached only when something never happens.
const DEADLINE: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it never happened")
}

/// A stand-in's listener, a folder for the table, and whether to release.
struct Scene {
    folder: tempfile::TempDir,
    stand_in: TcpListener,
    release: Arc<AtomicBool>,
}

impl Scene {
    async fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            stand_in: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            release: Arc::default(),
        }
    }

    fn options(&self, listen: SocketAddr) -> Route {
        let SocketAddr::V4(to) = self.stand_in.local_addr().unwrap() else { unreachable!("bound so") };
        Route { listen: vec![listen], to, table: self.folder.path().join("addresses") }
    }

    fn start(&self, listen: SocketAddr) -> Relief {
        let release = self.release.clone();
        Relief::start(self.options(listen), move || release.load(Ordering::Relaxed)).unwrap()
    }

    fn release(&self) {
        self.release.store(true, Ordering::Relaxed);
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        soon(self.stand_in.accept()).await.unwrap()
    }

    /// A relief that holds a port, and a client with what the stand-in has of it.
    async fn carrying(&self) -> (Relief, SocketAddr, TcpStream, TcpStream) {
        let port = free_port();
        let relief = self.start(port);
        holding(&relief).await;
        let client = soon(TcpStream::connect(port)).await.unwrap();
        let (server, _) = self.accept().await;
        (relief, port, client, server)
    }
}

/// A port on a loopback address of its own, so that no other test's connection happens to come from it.
fn free_port() -> SocketAddr {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let own = 1 + LAST.fetch_add(1, Ordering::Relaxed) as u8;
    std::net::TcpListener::bind((Ipv4Addr::new(127, 1, 0, own), 0)).unwrap().local_addr().unwrap()
}

async fn until(relief: &Relief, reached: impl FnMut(&State) -> bool) {
    soon(relief.state().wait_for(reached)).await.unwrap();
}

async fn holding(relief: &Relief) {
    until(relief, |state| matches!(state, State::Holding { .. })).await;
}

async fn released(relief: &Relief) {
    until(relief, |state| matches!(state, State::Released { .. })).await;
}

/// What is written at one end arrives at the other, in both directions.
async fn check_carried(client: &mut TcpStream, server: &mut TcpStream) {
    let mut got = [0; 7];
    soon(client.write_all(b"request")).await.unwrap();
    soon(server.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"request");
    soon(server.write_all(b"answer.")).await.unwrap();
    soon(client.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"answer.");
}

/// Reads until the other side is done, whether it said so or broke off.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    rest
}

#[tokio::test]
async fn a_connection_is_carried() {
    let scene = Scene::new().await;
    let (relief, _, mut client, mut server) = scene.carrying().await;
    check_carried(&mut client, &mut server).await;
    let status = relief.status();
    assert_eq!((status.carried, status.open, status.failed), (1, 1, 0));
    assert!(status.held_after.is_some());
}

#[tokio::test]
async fn two_clients_at_once_do_not_meet() {
    let scene = Scene::new().await;
    let (_relief, port, mut client, mut server) = scene.carrying().await;
    let mut second = soon(TcpStream::connect(port)).await.unwrap();
    let (mut second_server, _) = scene.accept().await;
    second.write_all(b"second!").await.unwrap();
    check_carried(&mut client, &mut server).await;
    let mut got = [0; 7];
    soon(second_server.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"second!");
    drop(second_server);
    rest(&mut second).await;
    check_carried(&mut client, &mut server).await;
}

#[tokio::test]
async fn one_side_may_be_done_before_the_other() {
    let scene = Scene::new().await;
    let (_relief, _, mut client, mut server) = scene.carrying().await;
    client.write_all(b"all of it").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, b"all of it");
    server.write_all(b"and still an answer").await.unwrap();
    drop(server);
    assert_eq!(rest(&mut client).await, b"and still an answer");
}

#[tokio::test]
async fn much_data_arrives_whole() {
    let scene = Scene::new().await;
    let (_relief, _, mut client, mut server) = scene.carrying().await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let (written, got) = tokio::join!(
        async {
            soon(client.write_all(&sent)).await.unwrap();
            client.shutdown().await.unwrap();
        },
        rest(&mut server),
    );
    assert_eq!((written, got == sent), ((), true));
}

#[tokio::test]
async fn the_port_is_taken_only_when_the_old_server_leaves_it() {
    let scene = Scene::new().await;
    let old = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = old.local_addr().unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let asks = asked.clone();
    let relief =
        Relief::start(scene.options(port), move || asks.fetch_add(1, Ordering::Relaxed) > 1 << 40).unwrap();
    // It has tried a few times when it has asked a few times.
    soon(async {
        while asked.load(Ordering::Relaxed) < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(relief.status().state, State::Waiting { trouble: None });
    let _kept = soon(TcpStream::connect(port)).await.unwrap();
    let _kept_too = soon(old.accept()).await.unwrap();
    drop(old);
    holding(&relief).await;
    let _client = soon(TcpStream::connect(port)).await.unwrap();
    scene.accept().await;
}

#[tokio::test]
async fn the_port_is_given_back_and_what_is_carried_goes_on() {
    let scene = Scene::new().await;
    let (relief, port, mut client, mut server) = scene.carrying().await;
    scene.release();
    released(&relief).await;
    let new = listen(port).unwrap();
    let _client = soon(TcpStream::connect(port)).await.unwrap();
    soon(new.accept()).await.unwrap();
    check_carried(&mut client, &mut server).await;
    assert_eq!(relief.status().open, 1);
}

#[tokio::test]
async fn connections_that_wait_when_the_port_is_given_back_are_carried() {
    const WAITING: usize = 5;
    let scene = Scene::new().await;
    let port = free_port();
    let (connected, connections) = mpsc::channel();
    // It is asked in the thread that accepts: what connects meanwhile waits.
    let release = move || {
        let waiting: io::Result<Vec<_>> = (0..WAITING).map(|_| std::net::TcpStream::connect(port)).collect();
        waiting.is_ok_and(|waiting| connected.send(waiting).is_ok())
    };
    let relief = Relief::start(scene.options(port), release).unwrap();
    released(&relief).await;
    let mut servers = Vec::new();
    for _ in 0..WAITING {
        let (mut server, _) = scene.accept().await;
        server.write_all(b"answer.").await.unwrap();
        servers.push(server);
    }
    for client in connections.recv().unwrap() {
        let mut answer = [0; 7];
        soon(non_blocking(client).unwrap().read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"answer.");
    }
    assert_eq!(relief.status().carried, WAITING as u64);
}

#[tokio::test]
async fn a_port_wanted_back_already_is_never_taken() {
    let scene = Scene::new().await;
    scene.release();
    let relief = scene.start(free_port());
    until(&relief, |state| *state == State::NeverHeld).await;
    assert_eq!(relief.status().held_after, None);
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_said_and_tried_again() {
    let scene = Scene::new().await;
    // TEST-NET-1: no address of this machine.
    let relief = scene.start("192.0.2.1:6443".parse().unwrap());
    until(&relief, |state| matches!(state, State::Waiting { trouble: Some(_) })).await;
    scene.release();
    until(&relief, |state| *state == State::NeverHeld).await;
}

#[tokio::test]
async fn of_several_addresses_all_or_none_are_taken() {
    let scene = Scene::new().await;
    let old = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (free, taken) = (free_port(), old.local_addr().unwrap());
    let options = Route { listen: vec![free, taken], ..scene.options(free) };
    let relief = Relief::start(options, || false).unwrap();
    assert_eq!(relief.status().held_after, None);
    drop(old);
    holding(&relief).await;
    for port in [free, taken] {
        let _client = soon(TcpStream::connect(port)).await.unwrap();
        scene.accept().await;
    }
}

#[tokio::test]
async fn a_stand_in_that_is_away_costs_its_clients_only() {
    let scene = Scene::new().await;
    let (relief, port, mut carried, mut server) = scene.carrying().await;
    check_carried(&mut carried, &mut server).await;
    let address = scene.stand_in.local_addr().unwrap();
    drop(scene.stand_in);
    let mut refused = soon(TcpStream::connect(port)).await.unwrap();
    assert_eq!(rest(&mut refused).await, b"");
    assert_eq!((relief.status().carried, relief.status().failed), (1, 1));
    check_carried(&mut carried, &mut server).await;
    // It may come back.
    let again = listen(address).unwrap();
    let mut client = soon(TcpStream::connect(port)).await.unwrap();
    let (mut server, _) = soon(again.accept()).await.unwrap();
    check_carried(&mut client, &mut server).await;
}

/// The source address that the stand-in sees of a connection whose client has this address.
async fn source_of(scene: &Scene, forwarder: &Arc<Forwarder>, client: &str) -> IpAddr {
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(door.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = soon(door.accept()).await.unwrap();
    let permit = forwarder.free.clone().acquire_owned().await.unwrap();
    tokio::spawn(forwarder.clone().carry(accepted, client.parse().unwrap(), permit));
    scene.accept().await.1.ip()
}

#[tokio::test]
async fn each_client_comes_from_the_address_that_stands_for_it() {
    let scene = Scene::new().await;
    let options = scene.options(free_port());
    let forwarder = Arc::new(Forwarder::new(&options).unwrap());
    for (client, expected) in [
        ("198.51.100.7", "127.64.0.1"),
        ("2001:db8::7", "127.64.0.2"),
        ("::ffff:198.51.100.7", "127.64.0.1"),
        ("::1", "127.0.0.1"),
        ("127.0.0.9", "127.0.0.1"),
    ] {
        assert_eq!(source_of(&scene, &forwarder, client).await.to_string(), expected, "{client}");
    }
    let written = "127.64.0.1 198.51.100.7\n127.64.0.2 2001:db8::7\n";
    assert_eq!(std::fs::read_to_string(&options.table).unwrap(), written);
}

#[tokio::test]
async fn a_table_is_gone_on_with_and_loses_its_half_line() {
    let scene = Scene::new().await;
    let options = scene.options(free_port());
    std::fs::write(&options.table, "127.64.0.1 198.51.100.7\n127.64.0.2 198.51.").unwrap();
    let forwarder = Arc::new(Forwarder::new(&options).unwrap());
    assert_eq!(source_of(&scene, &forwarder, "198.51.100.7").await.to_string(), "127.64.0.1");
    assert_eq!(source_of(&scene, &forwarder, "198.51.100.8").await.to_string(), "127.64.0.2");
    let written = "127.64.0.1 198.51.100.7\n127.64.0.2 198.51.100.8\n";
    assert_eq!(std::fs::read_to_string(&options.table).unwrap(), written);
}

#[tokio::test]
async fn without_a_table_nothing_starts() {
    let scene = Scene::new().await;
    let options = Route { table: scene.folder.path().to_owned(), ..scene.options(free_port()) };
    Relief::start(options, || false).unwrap_err();
}

#[tokio::test]
async fn dropping_it_ends_everything_at_once() {
    let scene = Scene::new().await;
    let (relief, port, mut client, mut server) = scene.carrying().await;
    drop(relief);
    listen(port).unwrap();
    assert_eq!((rest(&mut client).await, rest(&mut server).await), (vec![], vec![]));
}

#[tokio::test]
async fn finishing_waits_for_what_it_carries() {
    let scene = Scene::new().await;
    let (relief, port, mut client, mut server) = scene.carrying().await;
    let finishing = tokio::spawn(relief.finish(DEADLINE * 100));
    // The port is free while the connection is still carried.
    soon(async {
        while listen(port).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    check_carried(&mut client, &mut server).await;
    assert!(!finishing.is_finished());
    drop((client, server));
    let status = soon(finishing).await.unwrap();
    assert!(matches!(status.state, State::Released { .. }), "{status:?}");
    assert_eq!((status.carried, status.open), (1, 0));
}

#[tokio::test]
async fn finishing_ends_what_outstays_its_grace() {
    let scene = Scene::new().await;
    let (relief, _, mut client, mut server) = scene.carrying().await;
    soon(relief.finish(Duration::ZERO)).await;
    assert_eq!((rest(&mut client).await, rest(&mut server).await), (vec![], vec![]));
}

#[tokio::test]
async fn the_ipv6_wildcard_takes_ipv4_too() {
    let wildcard = listen("[::]:0".parse().unwrap()).unwrap();
    let port = wildcard.local_addr().unwrap().port();
    let _client = soon(TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await.unwrap();
    let (_, address) = soon(wildcard.accept()).await.unwrap();
    assert!(address.ip().to_canonical().is_ipv4(), "{address}");
}
