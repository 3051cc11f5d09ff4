//! The one place where a stream to a broker is made.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connected, and where the protocol says so encrypted, stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Decides, right before each write to a socket, whether anything may be written.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    condition: Arc<OnceLock<Condition>>,
}

type Condition = Box<dyn Fn() -> bool + Send + Sync>;

impl Gate {
    /// From now on nothing is written unless `condition` is true. The first condition stays.
    pub(crate) fn set(&self, condition: impl Fn() -> bool + Send + Sync + 'static) {
        drop(self.condition.set(Box::new(condition)));
    }

    fn is_open(&self) -> bool {
        self.condition.get().is_none_or(|condition| condition())
    }
}

/// A socket behind a gate: below TLS, which writes when it likes.
struct Gated {
    tcp: TcpStream,
    gate: Gate,
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Here, after whatever was waited for: nothing but the system's call is between this look and the write.
        if !self.gate.is_open() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.tcp).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

/// A stream that could not be made.
pub(super) enum OpenError {
    /// No connection.
    Tcp(io::Error),
    /// A connection, but no agreement on TLS.
    Tls(io::Error),
}

/// Opens a stream to `host:port`; every address that the name stands for is tried.
pub(super) async fn open(
    address: &str,
    tls: Option<Arc<rustls::ClientConfig>>,
    gate: Gate,
    timeout: Duration,
) -> Result<Box<dyn Stream>, OpenError> {
    let late = || {
        let message = format!("no connection within {} s", timeout.as_secs_f32());
        io::Error::new(io::ErrorKind::TimedOut, message)
    };
    let connected = tokio::time::timeout(timeout, TcpStream::connect(address)).await;
    let tcp = connected
        .unwrap_or_else(|_| Err(late()))
        .map_err(OpenError::Tcp)?;
    // Requests are whole frames; waiting to fill a segment only delays them.
    tcp.set_nodelay(true).map_err(OpenError::Tcp)?;
    let stream = Gated { tcp, gate };
    let Some(config) = tls else {
        return Ok(Box::new(stream));
    };
    let name = server_name(address).map_err(OpenError::Tls)?;
    let connecting = TlsConnector::from(config).connect(name, stream);
    let connected = tokio::time::timeout(timeout, connecting).await;
    let stream = connected.unwrap_or_else(|_| Err(late()));
    Ok(Box::new(stream.map_err(OpenError::Tls)?))
}

/// What the certificate must be for.
fn server_name(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{host:?} is no host name"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_must_be_for_the_host_of_the_address() {
        for (address, name) in [
            ("kafka.shop.svc:9093", "kafka.shop.svc"),
            ("10.0.0.1:9093", "10.0.0.1"),
            ("[::1]:9093", "::1"),
        ] {
            assert_eq!(server_name(address).unwrap().to_str(), name);
        }
        assert!(server_name("a b:1").is_err());
    }
}
