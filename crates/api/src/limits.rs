//! Every limit of the faces, named and in one place.

use std::time::Duration;

/// Largest JSON body.
pub const JSON_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Config values that come with one change of a service: as many as one config has.
pub const ENV_KEYS_MAX: usize = 1000;
/// Longest time from the first byte of a request to its answer; streams only have to begin within it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest upload of one image.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Longest pause between two pieces of an upload.
pub const UPLOAD_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Default of [`crate::Settings::image_upload_bytes_max`].
pub const IMAGE_UPLOAD_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// How much of a refused request is still read, so that its sender sees the answer, and for how long.
pub const DRAIN_BYTES_MAX: usize = 256 * 1024 * 1024;
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for a complete request head, idle time on a kept-alive connection included.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest request head; also the size of a connection's read buffer.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest time that a reader may leave an answer lying before its connection is cut.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Most connections of one listener. Further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 1024;
/// Pause after a failed accept (usually: out of descriptors).
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Longest wait for requests in flight at shutdown.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Most log and rollout streams at once, of all accounts and of one.
pub const STREAMS_MAX: usize = 256;
pub const STREAMS_PER_ACCOUNT_MAX: usize = 64;
/// How often it is looked whether the key behind a stream is still good.
pub const STREAM_REVIEW: Duration = Duration::from_secs(2);
/// A stream without news says so this often, which also notices that the reader has left.
pub const STREAM_HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a watched rollout at a step is asked what the edge has seen of it: nobody tells.
pub const TRIAL_PACE: Duration = Duration::from_secs(1);
/// Shortest time between two lines of a watched rollout: changes in between arrive as one.
pub const WATCH_PACE: Duration = Duration::from_millis(100);
/// How often a followed log is read.
pub const LOG_FOLLOW_PACE: Duration = Duration::from_millis(300);
/// Most bytes of one instance's log that are read at once.
pub const LOG_CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Lines before the end that a log begins with, where `tail` is not given, and at most.
pub const LOG_TAIL_DEFAULT: usize = 100;
pub const LOG_TAIL_MAX: usize = 10_000;

/// Journal entries of one answer, where `limit` is not given, and at most.
pub const EVENTS_DEFAULT: u32 = 100;
pub const EVENTS_MAX: u32 = 1_000;

/// Seconds that a client is asked to wait before it tries again after a 503.
pub const UNAVAILABLE_RETRY_S: u64 = 5;

/// Requests of one account and bucket in a sliding hour (S2.36, S2.37).
pub const RATE_PER_HOUR: u32 = 100;
/// Accounts that the throttle remembers; the one that was quiet the longest is forgotten beyond.
pub const THROTTLED_ACCOUNTS_MAX: usize = 100_000;

/// Logins of one name in a sliding hour, good and bad ones.
pub const LOGINS_PER_HOUR: u32 = 30;
/// Passwords that are being compared at once; each takes 19 MiB and a core, and anybody may ask for it.
pub const LOGINS_AT_ONCE: usize = 1;
/// How long a browser's session lasts, and how long unused.
pub const SESSION_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
pub const SESSION_IDLE: Duration = Duration::from_secs(12 * 60 * 60);

/// How long a claim link works.
pub const CLAIM_TTL: Duration = Duration::from_secs(15 * 60);

/// Longest `notes` of a deployment, in characters (faces 3.3).
pub const NOTES_MAX: usize = 1_000;
/// Longest name of a project, config, secret, key or account, in characters (faces 3.3).
pub const NAME_MAX: usize = 64;
/// Most words of a command, and most bytes of one word.
pub const COMMAND_WORDS_MAX: usize = 256;
pub const COMMAND_WORD_BYTES_MAX: usize = 4_096;
/// Rows of a page where `page_size` is not given (OPEN-10).
pub const PAGE_SIZE: u32 = 20;
/// Longest password, in bytes; hashing time grows with it.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// Shortest password, in characters.
pub const PASSWORD_MIN: usize = 8;
