//! Asking an API server as the kubelet's own probes do (`pkg/probe/http`): at its own address, the certificate not verified.
//!
//! Nothing secret may be sent so, and only a yes is believed.

/// What a client of the server at `url` is made of; it sends no credentials.
///
/// # Errors
/// What is not a URL, in words.
pub fn config(url: &str) -> Result<kube::Config, String> {
    let mut config = kube::Config::new(url.parse().map_err(|error| format!("`{url}`: {error}"))?);
    config.accept_invalid_certs = true;
    // None of the system's certificates either: our image has none, and the client does not start without.
    config.root_cert = Some(Vec::new());
    Ok(config)
}

/// The innermost cause: "connection refused" says more than the layers around it.
pub fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
