//! A WebSocket session: a few text messages that must each come back, then a clean end.

use uuid::Uuid;

use super::kind::{Judged, broken, get};
use super::plan::LoadPlan;
use super::report::Outcome;
use crate::http1::Connection;

const OPCODE_TEXT: u8 = 0x1;
const OPCODE_CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Frames up to this need no longer length field; ours are far shorter.
const SHORT_MAX: usize = 125;

pub(super) async fn session(id: Uuid, plan: &LoadPlan) -> Judged {
    let mut connection = Connection::open(plan.server).await.map_err(broken)?;
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    connection.send(&get(plan, "/ws", &upgrade)).await.map_err(broken)?;
    let head = connection.final_head().await.map_err(broken)?;
    if head.status != 101 {
        let outcome = if head.status >= 500 {
            Outcome::ServerError
        } else {
            Outcome::OtherStatus
        };
        return Err((outcome, format!("{} instead of an upgrade", head.status)));
    }
    for n in 0..plan.websocket_messages {
        let message = format!("{id} {n}");
        connection
            .write(&frame(OPCODE_TEXT, message.as_bytes()))
            .await
            .map_err(broken)?;
        let (opcode, answer) = read_frame(&mut connection).await?;
        if opcode == OPCODE_CLOSE {
            return Err((
                Outcome::ResetAfterFirstByte,
                "closed by the server within the session".to_owned(),
            ));
        }
        if answer != message.as_bytes() {
            return Err((Outcome::WrongBody, String::from_utf8_lossy(&answer).into_owned()));
        }
        tokio::time::sleep(plan.websocket_gap).await;
    }
    connection
        .write(&frame(OPCODE_CLOSE, &1000_u16.to_be_bytes()))
        .await
        .map_err(broken)?;
    match read_frame(&mut connection).await? {
        (OPCODE_CLOSE, _) => Ok(()),
        (opcode, _) => Err((Outcome::WrongBody, format!("frame {opcode} instead of the end"))),
    }
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= SHORT_MAX);
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![FINAL | opcode, MASKED | payload.len() as u8];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

async fn read_frame(connection: &mut Connection) -> Result<(u8, Vec<u8>), (Outcome, String)> {
    let head = connection.exactly(2).await.map_err(broken)?;
    let length = usize::from(head[1] & !MASKED);
    if head[1] & MASKED != 0 || length > SHORT_MAX {
        return Err((
            Outcome::WrongBody,
            format!("a frame that begins with {:02x} {:02x}", head[0], head[1]),
        ));
    }
    let payload = connection.exactly(length).await.map_err(broken)?;
    Ok((head[0] & 0x0f, payload))
}
