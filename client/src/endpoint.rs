//! The address of a relay, as people type it: `ws://host[:port][/path]`.

use protocol::opening::default_relay_name;
use thiserror::Error;
use tokio_tungstenite::tungstenite::http::Uri;

/// Where a relay listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address; IPv6 without brackets.
    host: String,
    port: u16,
    /// What the upgrade request is made from.
    url: String,
}

/// Why a URL is no address of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Not a URL, or with parts that have no meaning here.
    #[error("{0:?} is not an address like ws://host:7400/ws")]
    Form(String),
    /// TLS.
    #[error("{0:?} asks for TLS, which this client does not speak: use ws://")]
    Tls(String),
}

impl Endpoint {
    /// Reads a URL. Without a port it is 80, without a path `/ws`.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| form())?;
        let authority = uri.authority().ok_or_else(form)?;
        if uri.scheme_str() == Some("wss") {
            return Err(EndpointError::Tls(url.to_owned()));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        // An authority with a port that is no number has none for `Uri`.
        let has_port = authority.as_str().len() > authority.host().len();
        if uri.scheme_str() != Some("ws")
            || host.is_empty()
            || authority.as_str().contains('@')
            || (has_port && authority.port_u16().is_none())
            || url.contains('#')
        {
            return Err(form());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path == "/" { "/ws" } else { path };
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            url: format!("ws://{authority}{path}"),
        })
    }

    /// Host and port to connect to.
    #[must_use]
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The whole URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name that the relay there is expected to give itself, unless another is configured.
    #[must_use]
    pub fn relay_name(&self) -> String {
        default_relay_name(&self.host)
    }
}

impl std::str::FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        Self::parse(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_people_type() {
        for (url, address, full, name) in [
            ("ws://127.0.0.1:7400", ("127.0.0.1", 7400), "ws://127.0.0.1:7400/ws", "localhost"),
            ("ws://127.0.0.1:7400/", ("127.0.0.1", 7400), "ws://127.0.0.1:7400/ws", "localhost"),
            ("ws://Relay.Example/ws", ("Relay.Example", 80), "ws://Relay.Example/ws", "relay.example"),
            ("ws://[::1]:7400/ws", ("::1", 7400), "ws://[::1]:7400/ws", "localhost"),
            ("ws://host:1/proxied?a=b", ("host", 1), "ws://host:1/proxied?a=b", "host"),
        ] {
            let endpoint = Endpoint::parse(url).expect(url);
            assert_eq!((endpoint.address(), endpoint.url()), (address, full));
            assert_eq!(endpoint.relay_name(), name);
        }
    }

    #[test]
    fn what_is_none() {
        for url in [
            "",
            "host",
            "host:7400",
            "http://host/ws",
            "ws://",
            "ws://:7400",
            "ws://me@host/ws",
            "ws://host:x",
            "ws://host:99999",
            "ws://a b/",
            "ws://host/ws#part",
            "/ws",
        ] {
            assert_eq!(Endpoint::parse(url), Err(EndpointError::Form(url.to_owned())), "{url}");
        }
        let tls = Endpoint::parse("wss://host/ws").expect_err("no TLS yet");
        assert_eq!(tls.to_string(), r#""wss://host/ws" asks for TLS, which this client does not speak: use ws://"#);
    }
}
