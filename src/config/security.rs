//! TLS and SASL, from the environment.

use std::sync::Arc;

use base64::Engine;

use super::{Config, Vars};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::parse_bool;
use crate::token::TokenProvider;

/// A value that must not be seen: its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, for the client alone.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How the client and the brokers know each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) tls: Option<Tls>,
    pub(crate) sasl: Option<Sasl>,
    pub(crate) provider: Option<Provider>,
}

/// Where tokens come from. Its `Debug` says nothing, whatever that of the service's type says.
#[derive(Clone)]
pub(crate) struct Provider(pub(crate) Arc<dyn TokenProvider>);

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenProvider")
    }
}

impl PartialEq for Provider {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Provider {}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The authorities to trust, in PEM. Without, those of the system.
    pub(crate) ca: Option<String>,
    /// The certificate to show, in PEM, and its key. One text often has both.
    pub(crate) identity: Option<(Secret, Secret)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sasl {
    pub(crate) mechanism: &'static str,
    /// Not with tokens.
    pub(crate) login: Option<(String, Secret)>,
}

const TOKENS: &str = "OAUTHBEARER";
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", TOKENS];

impl Config {
    /// Sets where the clients get their tokens: `STREAMING_SASL_MECHANISM=OAUTHBEARER` needs it, other mechanisms forbid it.
    /// Defaults to none.
    #[must_use]
    pub fn with_token_provider(mut self, provider: impl TokenProvider) -> Self {
        self.client.security.provider = Some(Provider(Arc::new(provider)));
        self
    }
}

impl Security {
    /// Whether there is a token provider exactly if one is needed.
    pub(crate) fn check_provider(&self) -> Result<()> {
        let needed = self.sasl.as_ref().is_some_and(|sasl| sasl.mechanism == TOKENS);
        let message = match (needed, &self.provider) {
            (true, None) => {
                "STREAMING_SASL_MECHANISM=OAUTHBEARER needs a token provider: set one with `with_token_provider`"
            }
            (false, Some(_)) => "there is a token provider, which only STREAMING_SASL_MECHANISM=OAUTHBEARER asks",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::InvalidConfig, message))
    }
}

impl Vars {
    pub(super) fn security(&mut self) -> Security {
        let security = Security { tls: self.tls(), sasl: self.sasl(), provider: None };
        let mut allowed = |name| self.read(name, false, "true or false", |text| parse_bool(text).ok());
        let (allowed, by_old_name) =
            (allowed("STREAMING_SASL_ALLOW_PLAINTEXT"), allowed("STREAMING_ALLOW_PLAINTEXT_SASL"));
        if by_old_name {
            self.warn("STREAMING_ALLOW_PLAINTEXT_SASL is the old name of STREAMING_SASL_ALLOW_PLAINTEXT: use that");
        }
        let allowed = allowed || by_old_name;
        if security.sasl.is_some() && security.tls.is_none() && !allowed {
            self.fault(
                "STREAMING_SASL_MECHANISM is set without STREAMING_TLS_ENABLED=true: the password or token would be sent in the clear. \
                 Enable TLS, or set STREAMING_SASL_ALLOW_PLAINTEXT=true if the network is to be trusted",
            );
        }
        if security.tls.is_some() && !cfg!(any(feature = "tls", feature = "tls-vendored")) {
            self.fault("STREAMING_TLS_ENABLED: this build has no TLS; enable the feature `tls` or `tls-vendored`");
        }
        let scram = security.sasl.as_ref().is_some_and(|sasl| sasl.mechanism != "PLAIN");
        if scram && !cfg!(any(feature = "tls", feature = "tls-vendored")) {
            self.fault(
                "STREAMING_SASL_MECHANISM: this build has PLAIN alone; enable the feature `tls` or `tls-vendored`",
            );
        }
        security
    }

    fn tls(&mut self) -> Option<Tls> {
        let enabled = self.read("STREAMING_TLS_ENABLED", false, "true or false", |text| parse_bool(text).ok());
        let ca = self.pem("STREAMING_TLS_CA_CERT", "ssl.ca.location");
        let certificate = self.pem("STREAMING_TLS_CLIENT_CERT", "ssl.certificate.location");
        let key = self.pem("STREAMING_TLS_CLIENT_KEY", "ssl.key.location");
        if certificate.is_some() != key.is_some() {
            self.fault("STREAMING_TLS_CLIENT_CERT and STREAMING_TLS_CLIENT_KEY go together: set both, or neither");
        }
        for name in ["STREAMING_TLS_CA_CERT", "STREAMING_TLS_CLIENT_CERT", "STREAMING_TLS_CLIENT_KEY"] {
            if !enabled && self.vars.contains_key(name) {
                self.warn(&format!("{name} has no effect without STREAMING_TLS_ENABLED=true"));
            }
        }
        let identity = certificate.zip(key).map(|(certificate, key)| (Secret(certificate), Secret(key)));
        enabled.then_some(Tls { ca, identity })
    }

    fn sasl(&mut self) -> Option<Sasl> {
        let mechanism = self.read("STREAMING_SASL_MECHANISM", None, &MECHANISMS.join(", "), |text| {
            MECHANISMS.iter().find(|known| known.eq_ignore_ascii_case(text)).map(|known| Some(*known))
        });
        if mechanism == Some(TOKENS) {
            for name in ["STREAMING_SASL_USERNAME", "STREAMING_SASL_PASSWORD"] {
                if self.vars.contains_key(name) {
                    self.fault(&format!("{name} is set, and STREAMING_SASL_MECHANISM=OAUTHBEARER does not read it"));
                }
            }
            return Some(Sasl { mechanism: TOKENS, login: None });
        }
        let username = self.read("STREAMING_SASL_USERNAME", String::new(), "a name", |text| Some(text.into()));
        let password =
            self.read_secret("STREAMING_SASL_PASSWORD", String::new(), "a password", |text| Some(text.into()));
        let Some(mechanism) = mechanism else {
            if !username.is_empty() || !password.is_empty() {
                self.warn("STREAMING_SASL_USERNAME and STREAMING_SASL_PASSWORD have no effect without STREAMING_SASL_MECHANISM");
            }
            return None;
        };
        self.require("STREAMING_SASL_USERNAME", !username.is_empty(), "STREAMING_SASL_MECHANISM needs it");
        self.require("STREAMING_SASL_PASSWORD", !password.is_empty(), "STREAMING_SASL_MECHANISM needs it");
        Some(Sasl { mechanism, login: Some((username, Secret(password))) })
    }

    /// A PEM text, as it is or in base64. It is taken for a secret: a key may have been put where a certificate belongs.
    fn pem(&mut self, name: &str, of_files: &str) -> Option<String> {
        let expected = format!(
            "PEM, as it is or in base64: the text itself, not a path; for files set `{of_files}` in STREAMING_KAFKA_PROPERTIES"
        );
        self.read_secret(name, None, &expected, |text| {
            let text = if text.starts_with("-----BEGIN ") {
                text.to_owned()
            } else {
                let bytes = base64::prelude::BASE64_STANDARD.decode(text.replace(char::is_whitespace, "")).ok()?;
                String::from_utf8(bytes).ok()?
            };
            is_pem(&text).then_some(Some(text))
        })
    }
}

/// Whether a text is blocks of base64, one at least, each between its BEGIN and its END (RFC 7468). What stands around them does
/// not count.
fn is_pem(text: &str) -> bool {
    let (mut rest, mut blocks) = (text, 0);
    while let Some((_, block)) = rest.split_once("-----BEGIN ") {
        let Some((label, block)) = block.split_once("-----") else { return false };
        let Some((body, after)) = block.split_once(&format!("-----END {label}-----")) else { return false };
        // Lines such as `DEK-Info: …` stand at the head of an encrypted key.
        let base64: String = body.lines().map(str::trim).filter(|line| !line.contains(':')).collect();
        if base64.is_empty() || base64::prelude::BASE64_STANDARD.decode(base64).is_err() {
            return false;
        }
        (rest, blocks) = (after, blocks + 1);
    }
    blocks > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn config(vars: &[(&str, &str)]) -> Result<Config> {
        let enabled =
            [("STREAMING_ENABLED", "1"), ("STREAMING_BROKERS", "a:1"), ("STREAMING_CLOUDEVENTS_SOURCE", "//shop")];
        Config::from_vars(enabled.into_iter().chain(vars.iter().copied()))
    }

    #[test]
    fn sasl_without_tls_is_refused_for_every_mechanism_unless_allowed() {
        for mechanism in MECHANISMS {
            let vars = [
                ("STREAMING_SASL_MECHANISM", mechanism),
                ("STREAMING_SASL_USERNAME", "shop"),
                ("STREAMING_SASL_PASSWORD", "hunter2"),
            ];
            let error = config(&vars).unwrap_err();
            assert!(error.to_string().contains("STREAMING_SASL_ALLOW_PLAINTEXT"), "{error}");
        }
        let plain = [
            ("STREAMING_SASL_MECHANISM", "plain"),
            ("STREAMING_SASL_USERNAME", "shop"),
            ("STREAMING_SASL_PASSWORD", "hunter2"),
            ("STREAMING_SASL_ALLOW_PLAINTEXT", "true"),
        ];
        let sasl = config(&plain).unwrap().client.security.sasl.unwrap();
        let (username, password) = sasl.login.unwrap();
        assert_eq!((sasl.mechanism, &*username, password.expose()), ("PLAIN", "shop", "hunter2"));
        assert!(config(&[]).unwrap().client.security.sasl.is_none());
    }

    #[test]
    fn sasl_needs_name_and_password_and_a_known_mechanism() {
        let error =
            config(&[("STREAMING_SASL_MECHANISM", "PLAIN"), ("STREAMING_SASL_ALLOW_PLAINTEXT", "1")]).unwrap_err();
        assert!(
            error.to_string().contains("STREAMING_SASL_USERNAME")
                && error.to_string().contains("STREAMING_SASL_PASSWORD")
        );
        assert_eq!(config(&[("STREAMING_SASL_MECHANISM", "GSSAPI")]).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn a_token_provider_is_needed_for_tokens_and_for_nothing_else() {
        struct Never;
        impl TokenProvider for Never {
            fn token(&self) -> crate::BoxFuture<'_, Result<crate::Token, Box<dyn std::error::Error + Send + Sync>>> {
                Box::pin(std::future::pending())
            }
        }
        let sasl = |mechanism| Security { sasl: Some(Sasl { mechanism, login: None }), ..Security::default() };
        let provider = || Some(Provider(Arc::new(Never)));
        assert!(sasl(TOKENS).check_provider().is_err());
        assert!(Security { provider: provider(), ..sasl(TOKENS) }.check_provider().is_ok());
        assert!(Security { provider: provider(), ..sasl("PLAIN") }.check_provider().is_err());
        assert!(Security { provider: provider(), ..Security::default() }.check_provider().is_err());
        assert!(Security::default().check_provider().is_ok());
    }

    #[test]
    fn a_name_or_password_beside_tokens_is_a_mistake() {
        let tokens = [("STREAMING_SASL_MECHANISM", "OAUTHBEARER"), ("STREAMING_SASL_ALLOW_PLAINTEXT", "1")];
        let error = config(&[tokens[0], tokens[1], ("STREAMING_SASL_PASSWORD", "hunter2")]).unwrap_err();
        assert!(error.to_string().contains("STREAMING_SASL_PASSWORD is set"), "{error}");
    }

    #[test]
    fn no_secret_is_in_an_error_or_in_debug() {
        let planted = "pl4nted-s3cret";
        let vars = [
            ("STREAMING_SASL_MECHANISM", "PLAIN"),
            ("STREAMING_SASL_USERNAME", "shop"),
            ("STREAMING_SASL_PASSWORD", planted),
        ];
        let error = config(&vars).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(planted));
        let error = config(&[("STREAMING_TLS_CLIENT_KEY", planted)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(planted));
        let error = config(&[("STREAMING_CLOUDEVENTS_SOURCE", "https://shop:pl4nted-s3cret@host/ /")]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(planted));
        let vars = [vars[0], vars[1], vars[2], ("STREAMING_SASL_ALLOW_PLAINTEXT", "true")];
        assert!(!format!("{:?}", config(&vars).unwrap()).contains(planted));
    }

    #[test]
    fn a_text_that_is_no_pem_is_a_fault_that_tells_where_files_go() {
        let block = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let half = "-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned();
        let other_end = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned();
        let in_base64 = base64::prelude::BASE64_STANDARD.encode(block("?"));
        for bad in ["/etc/ssl/ca.pem".to_owned(), block(""), block("AAA?"), block("AAAAA"), half, other_end, in_base64]
        {
            let error = config(&[("STREAMING_TLS_CA_CERT", &bad)]).unwrap_err().to_string();
            assert!(error.contains("STREAMING_TLS_CA_CERT: expected PEM"), "{error}");
            assert!(
                error.contains("not a path; for files set `ssl.ca.location` in STREAMING_KAFKA_PROPERTIES"),
                "{error}"
            );
        }
        let encrypted =
            "-----BEGIN RSA PRIVATE KEY-----\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert!(is_pem(encrypted) && is_pem(&format!("# ours\n{}{}", block("AAAA"), block("AA=="))));
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        let error = config(&[("STREAMING_TLS_CLIENT_CERT", PEM)]).unwrap_err();
        assert!(error.to_string().contains("STREAMING_TLS_CLIENT_KEY"), "{error}");
    }

    #[test]
    #[cfg(any(feature = "tls", feature = "tls-vendored"))]
    fn certificates_are_read_as_they_are_and_in_base64() {
        let base64 = base64::prelude::BASE64_STANDARD.encode(PEM);
        for text in [PEM, &base64] {
            let tls = config(&[("STREAMING_TLS_ENABLED", "true"), ("STREAMING_TLS_CA_CERT", text)])
                .unwrap()
                .client
                .security
                .tls;
            assert_eq!(tls.unwrap().ca.unwrap().trim(), PEM.trim());
        }
    }

    #[test]
    #[cfg(not(any(feature = "tls", feature = "tls-vendored")))]
    fn a_build_without_tls_says_so() {
        let error = config(&[("STREAMING_TLS_ENABLED", "true")]).unwrap_err();
        assert!(error.to_string().contains("feature `tls`"), "{error}");
    }
}
