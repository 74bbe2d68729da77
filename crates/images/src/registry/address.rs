//! Which addresses a pull may connect to (C6.7).
//!
//! The host of a registry is chosen by whoever deploys; the hosts of its token service and of its redirects are chosen
//! by the registry. The former may be private if [`super::RegistryOptions::allow_private`] says so; the latter only
//! when the registry itself is. The check is made on the very addresses that are then connected to, so that a name
//! cannot mean one thing when it is checked and another when it is used.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::error::{ImageError, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Public,
    /// This machine, or a network that is not the Internet.
    Private,
    /// Link-local (where clouds put their metadata) and what is no host at all.
    Never,
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => reach_v4(v4),
            None => reach_v6(v6),
        },
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    if address.is_link_local() || address.is_multicast() || address.is_broadcast() {
        return Reach::Never;
    }
    let shared = a == 100 && (64..128).contains(&b);
    let special = a == 0 || a >= 240 || (a == 198 && (b == 18 || b == 19)) || (a == 192 && b == 0 && c == 0);
    if address.is_loopback() || address.is_private() || shared || special {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    if address.is_unicast_link_local() || address.is_multicast() || address == AWS_METADATA {
        Reach::Never
    } else if address.is_loopback() || address.is_unspecified() || address.is_unique_local() {
        Reach::Private
    } else {
        Reach::Public
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, or by NAT64.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = matches!((a, b, c, d, e, f), (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0))
        || ((a, b, c, d, e, f) == (0, 0, 0, 0, 0, 0) && (g, h) > (0, 1));
    embedded.then(|| Ipv4Addr::from(u32::from(g) << 16 | u32::from(h)))
}

/// The decision for one pull.
#[derive(Debug, Clone)]
pub(super) struct AddressRule {
    registry_host: String,
    private_registry: bool,
    private_elsewhere: bool,
}

impl AddressRule {
    /// Looks the registry up to learn whether it is a private one.
    pub(super) async fn for_registry(registry: &Url, allow_private: bool) -> Result<AddressRule> {
        let host = registry.host_str().unwrap_or_default().to_owned();
        let mut rule = AddressRule {
            registry_host: host.clone(),
            private_registry: allow_private,
            private_elsewhere: false,
        };
        rule.check_literal(registry)?;
        let addresses = match literal(registry) {
            Some(address) => vec![address],
            // A failed lookup is reported by the first request, with its retries.
            None => lookup(&host)
                .await
                .map(|all| all.iter().map(SocketAddr::ip).collect())
                .unwrap_or_default(),
        };
        rule.private_elsewhere = allow_private && addresses.iter().any(|address| reach(*address) != Reach::Public);
        Ok(rule)
    }

    /// Refuses a URL whose host is an address that is not allowed. Names are checked when they are resolved.
    pub(super) fn check_literal(&self, url: &Url) -> Result<()> {
        match literal(url) {
            Some(address) => self.check(url.host_str().unwrap_or_default(), address),
            None => Ok(()),
        }
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<()> {
        let refuse = |problem| {
            Err(ImageError::AddressRefused {
                host: host.to_owned(),
                problem,
            })
        };
        let private_allowed = if host == self.registry_host {
            self.private_registry
        } else {
            self.private_elsewhere
        };
        match reach(address) {
            Reach::Never => refuse("it is link-local, where clouds keep their secrets, or no host's address"),
            Reach::Private if !private_allowed => refuse("it is in a private network or on this machine"),
            _ => Ok(()),
        }
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
        .parse()
        .ok()
}

async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.collect())
}

/// Resolves for `reqwest`, leaving only allowed addresses.
pub(super) struct GuardedResolver(pub AddressRule);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rule = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = lookup(&host).await?;
            let mut refused = None;
            let mut allowed = Vec::new();
            for address in found {
                match rule.check(&host, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(error) => refused = Some(error),
                }
            }
            match (allowed.is_empty(), refused) {
                (true, Some(error)) => Err(error.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach_of(text: &str) -> Reach {
        reach(text.parse().expect("an address"))
    }

    #[test]
    fn metadata_addresses_are_never_reached_in_any_spelling() {
        for never in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
            "224.0.0.1",
        ] {
            assert_eq!(reach_of(never), Reach::Never, "{never}");
        }
    }

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fc00::1",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(reach_of(private), Reach::Private, "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111"] {
            assert_eq!(reach_of(public), Reach::Public, "{public}");
        }
    }

    #[tokio::test]
    async fn only_a_private_registry_may_send_us_to_private_places() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let public = AddressRule::for_registry(&url("https://1.1.1.1/"), true)
            .await
            .expect("public");
        assert!(public.check_literal(&url("https://127.0.0.1/token")).is_err());
        let private = AddressRule::for_registry(&url("http://127.0.0.1:5000/"), true)
            .await
            .expect("private");
        assert!(private.check_literal(&url("http://10.0.0.1/token")).is_ok());
        assert!(private.check_literal(&url("http://169.254.169.254/latest")).is_err());
        assert!(
            AddressRule::for_registry(&url("http://127.0.0.1:5000/"), false)
                .await
                .is_err()
        );
    }
}
