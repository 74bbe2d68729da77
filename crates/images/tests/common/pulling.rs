//! A store that pulls from a registry of the test's, and what holds afterwards.

use std::fs;
use std::time::Duration;

use images::{Digest, ImageError, Limits, RegistryOptions};

use super::registry::Registry;
use super::{Layer, Packing, TestImage, World};

pub fn quick() -> RegistryOptions {
    RegistryOptions {
        backoff: Duration::from_millis(1),
        stall: Duration::from_millis(500),
        retry_after_max: Duration::from_secs(2),
        ..RegistryOptions::default()
    }
}

pub fn world() -> World {
    World::with(Limits::default(), quick())
}

/// Bytes that do not compress, the same each time.
pub fn noise(len: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + u8::try_from(state % 26).expect("a letter"))
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// One layer of about 400 KiB.
pub fn large() -> TestImage {
    TestImage::packed(
        &[Layer::new().file("noise", &noise(400_000)).finish()],
        Packing::Plain,
        |_| {},
    )
}

pub async fn pull(world: &World, registry: &Registry) -> Result<Digest, ImageError> {
    world.store.pull(&registry.reference("app:1"), None, |_| {}).await
}

pub async fn assert_whole(world: &World, image: &TestImage, pulled: Result<Digest, ImageError>) {
    let digest = pulled.expect("pulled");
    assert_eq!(digest, image.manifest);
    let prepared = world.store.prepare(&digest).await.expect("prepared");
    assert_eq!(
        fs::read_to_string(prepared.layers[0].join("noise")).expect("the file"),
        noise(400_000)
    );
    assert!(world.leftovers().is_empty());
}

/// Nothing but whole blobs stayed, and nothing that a name leads to.
pub fn assert_nothing_named(world: &World) {
    assert!(world.store.list().expect("a list").is_empty());
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}
