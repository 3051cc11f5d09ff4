//! The one place where a stream to a broker is made.

use std::io;
use std::time::Duration;

use kafka_backup_shared::spec::SecurityProtocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connected, and where the protocol says so encrypted, stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Opens a stream to `host:port`; every address that the name stands for is tried.
pub(crate) async fn open(
    address: &str,
    protocol: SecurityProtocol,
    timeout: Duration,
) -> io::Result<Box<dyn Stream>> {
    let connected = tokio::time::timeout(timeout, TcpStream::connect(address)).await;
    let Ok(connected) = connected else {
        let message = format!("no connection within {} s", timeout.as_secs_f32());
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    };
    let tcp = connected?;
    // Requests are whole frames; waiting to fill a segment only delays them.
    tcp.set_nodelay(true)?;
    match protocol {
        SecurityProtocol::Plaintext => Ok(Box::new(tcp)),
    }
}
