//! What TLS says, wherever in a chain of errors it stands: libraries wrap it in their own, and in system errors.

use std::error::Error;
use std::io;

/// The error of rustls that `error` is, wraps or was caused by.
pub(crate) fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // What a system error wraps is not its source.
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => tls_error(wrapped),
        None => error.source().and_then(tls_error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn it_is_found_below_layers_and_within_system_errors() {
        let wrapped = || io::Error::other(rustls::Error::DecryptError);
        let found = |error: &(dyn Error + 'static)| tls_error(error).cloned();
        assert_eq!(found(&wrapped()), Some(rustls::Error::DecryptError));
        assert_eq!(found(&Outer(wrapped())), Some(rustls::Error::DecryptError));
        let twice = io::Error::other(wrapped());
        assert_eq!(found(&Outer(twice)), Some(rustls::Error::DecryptError));
        assert_eq!(found(&Outer(io::ErrorKind::TimedOut.into())), None);
    }
}
