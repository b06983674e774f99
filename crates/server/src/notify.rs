//! What systemd wants to hear: that the service is ready, and that it ends.

/// Tells systemd, where it started the service and asked for it.
#[cfg(unix)]
pub fn notify(state: &str) {
    use std::os::unix::net::UnixDatagram;
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        #[cfg(target_os = "linux")]
        if let Some(name) = path.to_str().and_then(|path| path.strip_prefix('@')) {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(state.as_bytes(), &address)?;
            return Ok(());
        }
        socket.send_to(state.as_bytes(), &path)?;
        Ok(())
    };
    if let Err(error) = send() {
        tracing::warn!("systemd cannot be told `{state}`: {error}");
    }
}

/// There is nobody to tell.
#[cfg(not(unix))]
pub fn notify(_state: &str) {}
