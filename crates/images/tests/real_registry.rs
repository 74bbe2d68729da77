//! Pulls from Debian's `docker-registry` what `skopeo` put there.

mod common;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Layer, Packing, TestImage, World, installed, reference, write_layout};
use images::{Authorities, Credentials, Digest, ImageError, Limits, Platform, RegistryOptions};
use serde_json::json;

/// `me` and `s3cret`, with the cheapest cost that there is.
const HTPASSWD: &str = "me:$2b$04$ip7JMqzrt7aZ8kBGJUDsc.S/57JwZuMM0oeb9UIyy9XohFWYMi3B.\n";

struct DockerRegistry {
    process: Child,
    address: SocketAddr,
    credentials: bool,
}

/// How a registry is reached.
enum Manner<'a> {
    Plain,
    WithPassword,
    /// At this address, with this certificate and its key.
    Encrypted(IpAddr, &'a Path, &'a Path),
}

impl DockerRegistry {
    /// `None` where the programs are missing, which is said.
    fn start(dir: &Path, manner: &Manner<'_>) -> Option<DockerRegistry> {
        if !installed(&["docker-registry", "skopeo"]) {
            return None;
        }
        let (ip, tls) = match manner {
            Manner::Encrypted(ip, certificate, key) => {
                let (certificate, key) = (certificate.display(), key.display());
                (*ip, format!(", tls: {{certificate: {certificate}, key: {key}}}"))
            }
            _ => (Ipv4Addr::LOCALHOST.into(), String::new()),
        };
        let address = TcpListener::bind((ip, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a port");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '{address}'{tls}}}\n",
            dir.join("registry").display()
        );
        let credentials = matches!(manner, Manner::WithPassword);
        if credentials {
            let htpasswd = dir.join("htpasswd");
            fs::write(&htpasswd, HTPASSWD).expect("a file");
            config.push_str(&format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                htpasswd.display()
            ));
        }
        let file = dir.join("registry.yml");
        fs::write(&file, config).expect("a file");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let registry = DockerRegistry {
            process,
            address,
            credentials,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    fn push(&self, source: &str, name: &str, more: &[&str]) {
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
            .args(more);
        if self.credentials {
            skopeo.args(["--dest-creds", "me:s3cret"]);
        }
        let target = format!("docker://{}/{name}", self.address);
        let output = skopeo.args([source, &target]).output().expect("skopeo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn name(&self, rest: &str) -> images::Reference {
        reference(&format!("{}/{rest}", self.address))
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn image(content: &str, packing: Packing, architecture: &str) -> TestImage {
    let layers = [
        Layer::new().file("base", "base").finish(),
        Layer::new().file("content", content).finish(),
    ];
    TestImage::packed(&layers, packing, |config| config["architecture"] = json!(architecture))
}

async fn assert_content(world: &World, digest: &Digest, content: &str) {
    let prepared = world.store.prepare(digest).await.expect("prepared");
    assert_eq!(
        fs::read_to_string(prepared.layers[1].join("content")).expect("the file"),
        content
    );
    assert!(world.leftovers().is_empty());
}

#[tokio::test]
async fn an_image_with_gzip_or_zstd_layers_is_pulled_by_tag_and_by_digest() {
    let world = World::new();
    let Some(registry) = DockerRegistry::start(world.dir.path(), &Manner::Plain) else {
        return;
    };
    let here = Platform::here().architecture;
    let plain = image("hello", Packing::Plain, &here);
    let layout = write_layout(&world.path("layout"), plain.layout("app:1"));
    let source = format!("oci:{layout}:app:1");
    registry.push(&source, "team/gzip:1", &["--dest-compress-format", "gzip"]);
    registry.push(
        &source,
        "team/zstd:1",
        &["--dest-compress-format", "zstd", "--dest-compress", "--format", "oci"],
    );
    registry.push(&source, "team/docker:1", &["--format", "v2s2"]);
    for name in ["team/gzip:1", "team/zstd:1", "team/docker:1"] {
        let digest = world.store.pull(&registry.name(name), None, |_| {}).await.expect(name);
        assert_content(&world, &digest, "hello").await;
        let pinned = registry.name(&format!("{}@{digest}", name.trim_end_matches(":1")));
        assert_eq!(world.store.pull(&pinned, None, |_| {}).await.expect(name), digest);
        assert_eq!(world.store.resolve_local(&pinned).expect("read"), Some(digest));
    }
    let missing = world
        .store
        .pull(&registry.name("team/none:1"), None, |_| {})
        .await
        .expect_err("missing");
    assert!(matches!(missing, ImageError::NotInRegistry { .. }), "{missing}");
}

#[tokio::test]
async fn a_registry_with_a_password_wants_it() {
    let world = World::new();
    let Some(registry) = DockerRegistry::start(world.dir.path(), &Manner::WithPassword) else {
        return;
    };
    let image = image("secret", Packing::Gzip, &Platform::here().architecture);
    let layout = write_layout(&world.path("layout"), image.layout("app:1"));
    registry.push(&format!("oci:{layout}:app:1"), "app:1", &[]);
    let name = registry.name("app:1");
    for wrong in [None, Some(Credentials::new("me", "guess"))] {
        let error = world.store.pull(&name, wrong, |_| {}).await.expect_err("refused");
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
        assert!(
            error.to_string().contains("password") && !error.to_string().contains("guess"),
            "{error}"
        );
    }
    let me = Some(Credentials::new("me", "s3cret"));
    let digest = world.store.pull(&name, me, |_| {}).await.expect("pulled");
    assert_eq!(digest, image.manifest, "skopeo copies an OCI image as it is");
    assert_content(&world, &digest, "secret").await;
}

#[tokio::test]
async fn of_an_image_for_many_machines_the_one_for_this_is_pulled() {
    let world = World::new();
    let Some(registry) = DockerRegistry::start(world.dir.path(), &Manner::Plain) else {
        return;
    };
    let here = Platform::here().architecture;
    let (mine, other) = (
        image("mine", Packing::Gzip, &here),
        image("other", Packing::Gzip, "s390x"),
    );
    let platform = |image: &TestImage, architecture: &str| {
        let mut descriptor = image.descriptor();
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        descriptor
    };
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [platform(&other, "s390x"), platform(&mine, &here)]});
    let index = serde_json::to_vec(&index).expect("JSON");
    let mut all = mine.clone();
    all.blobs.extend(other.blobs.clone());
    let digest = Digest::of(&index);
    let descriptor = json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest,
        "size": index.len(), "annotations": {"org.opencontainers.image.ref.name": "app:1"}});
    all.blobs.insert(digest, index);
    let layout = write_layout(&world.path("layout"), all.layout_of(vec![descriptor]));
    registry.push(&format!("oci:{layout}:app:1"), "many:1", &["--all"]);

    let pulled = world
        .store
        .pull(&registry.name("many:1"), None, |_| {})
        .await
        .expect("pulled");
    assert_eq!(pulled, mine.manifest);
    assert_content(&world, &pulled, "mine").await;
    let by_index = registry.name(&format!("many@{digest}"));
    assert_eq!(
        world.store.pull(&by_index, None, |_| {}).await.expect("pulled"),
        mine.manifest
    );
    assert_eq!(
        world.store.resolve_local(&by_index).expect("read"),
        Some(mine.manifest),
        "known by its index too"
    );

    let foreign = write_layout(&world.path("foreign"), other.layout("app:1"));
    registry.push(&format!("oci:{foreign}:app:1"), "foreign:1", &[]);
    let error = world
        .store
        .pull(&registry.name("foreign:1"), None, |_| {})
        .await
        .expect_err("refused")
        .to_string();
    assert!(error.contains("s390x") && error.contains(&here), "{error}");
}

/// An address of this machine that is not loopback, where registries are spoken to in plain HTTP.
fn outward_address() -> Option<IpAddr> {
    // Sends nothing: the kernel picks the address that it would send from.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback()).then_some(ip)
}

/// An authority, and a certificate of it for `ip`: the files of the authority's certificate, the other one, and its key.
fn certified(dir: &Path, ip: IpAddr) -> [PathBuf; 3] {
    let file = |name: &str| dir.join(name).display().to_string();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let fresh = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ];
    let (ca, ca_key, leaf, leaf_key) = (file("ca.pem"), file("ca.key"), file("leaf.pem"), file("leaf.key"));
    let authority = [
        "req",
        "-x509",
        "-subj",
        "/CN=Test authority",
        "-keyout",
        &ca_key,
        "-out",
        &ca,
    ];
    openssl(&[&authority[..], &fresh].concat());
    let name = format!("subjectAltName=IP:{ip}");
    let signed = [
        "req",
        "-x509",
        "-subj",
        "/CN=registry",
        "-addext",
        &name,
        "-addext",
        "basicConstraints=CA:FALSE",
    ];
    let by = ["-CA", &ca, "-CAkey", &ca_key, "-keyout", &leaf_key, "-out", &leaf];
    openssl(&[&signed[..], &by, &fresh].concat());
    [ca, leaf, leaf_key].map(PathBuf::from)
}

#[tokio::test]
async fn a_registry_with_a_certificate_of_a_private_authority_is_trusted_once_that_is_named() {
    let (Some(ip), true) = (outward_address(), installed(&["openssl"])) else {
        println!("SKIPPED: no address but loopback, or no openssl");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let [authority, certificate, key] = certified(dir.path(), ip);
    let manner = Manner::Encrypted(ip, &certificate, &key);
    let Some(registry) = DockerRegistry::start(dir.path(), &manner) else {
        return;
    };
    let stranger = World::with(
        Limits::default(),
        RegistryOptions {
            attempts: 1,
            ..RegistryOptions::default()
        },
    );
    let image = image("private", Packing::Gzip, &Platform::here().architecture);
    let layout = write_layout(&stranger.path("layout"), image.layout("app:1"));
    registry.push(&format!("oci:{layout}:app:1"), "app:1", &[]);
    let name = registry.name("app:1");
    let error = stranger
        .store
        .pull(&name, None, |_| {})
        .await
        .expect_err("nobody vouches for it");
    assert!(error.to_string().contains("certificate"), "{error}");

    let authorities = Authorities::from_pem(&fs::read(authority).expect("a file")).expect("a certificate");
    let world = World::with(
        Limits::default(),
        RegistryOptions {
            authorities,
            ..RegistryOptions::default()
        },
    );
    let digest = world.store.pull(&name, None, |_| {}).await.expect("pulled");
    assert_content(&world, &digest, "private").await;
}

#[test]
fn a_file_without_a_certificate_is_no_authority() {
    for pem in [
        "",
        "hello",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert!(Authorities::from_pem(pem.as_bytes()).is_err(), "{pem:?}");
    }
}
