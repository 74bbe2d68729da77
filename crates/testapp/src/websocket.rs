//! A WebSocket that says everything back (RFC 6455).

use std::io::{self, ErrorKind, Read, Write};

use crate::sha1::sha1;

/// What the protocol appends to the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Largest frame.
const FRAME_MAX: u64 = 1024 * 1024;

const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const MASKED: u8 = 0x80;

/// The answer to a client's key.
pub fn accept(key: &str) -> String {
    base64(&sha1(format!("{key}{GUID}").as_bytes()))
}

/// The head that makes a WebSocket of a connection.
pub fn accepted(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Returns after the client has said goodbye.
pub fn echo(reader: &mut impl Read, writer: &mut impl Write) -> io::Result<()> {
    loop {
        let (first, payload) = read_frame(reader)?;
        match first & OPCODE {
            PONG => {}
            PING => write_frame(writer, first & !OPCODE | PONG, &payload)?,
            CLOSE => return write_frame(writer, first, &payload),
            _ => write_frame(writer, first, &payload)?,
        }
    }
}

/// The first byte, and the payload without its mask.
fn read_frame(reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let [first, second] = read_array(reader)?;
    if second & MASKED == 0 {
        return Err(bad("a client's frame without a mask"));
    }
    let length = match second & !MASKED {
        126 => u16::from_be_bytes(read_array(reader)?).into(),
        127 => u64::from_be_bytes(read_array(reader)?),
        short => short.into(),
    };
    if length > FRAME_MAX {
        return Err(bad("the frame is too large"));
    }
    let mask: [u8; 4] = read_array(reader)?;
    let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
    reader.read_exact(&mut payload)?;
    payload
        .iter_mut()
        .zip(mask.iter().cycle())
        .for_each(|(byte, mask)| *byte ^= mask);
    Ok((first, payload))
}

fn read_array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_frame(writer: &mut impl Write, first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(short as u8),
        middle @ 126..65536 => {
            frame.push(126);
            frame.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    writer.write_all(&frame)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let padded = [group[0], *group.get(1).unwrap_or(&0), *group.get(2).unwrap_or(&0)];
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n > group.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

fn bad(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_standard_comes_out() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, first, payload).unwrap();
        out[1] |= MASKED;
        let at = out.len() - payload.len();
        let mask = [1, 2, 3, 4];
        out[at..]
            .iter_mut()
            .zip(mask.iter().cycle())
            .for_each(|(byte, mask)| *byte ^= mask);
        out.splice(at..at, mask);
        out
    }

    #[test]
    fn frames_of_all_sizes_come_back_until_the_goodbye() {
        let (middle, long) = (vec![7; 300], vec![9; 70_000]);
        let payloads: [(u8, &[u8]); 5] = [(0x81, b"hi"), (0x82, &middle), (0x82, &long), (0x89, b"p"), (0x88, b"")];
        let sent: Vec<u8> = payloads
            .iter()
            .flat_map(|(first, payload)| masked(*first, payload))
            .collect();
        let mut got = Vec::new();
        echo(&mut sent.as_slice(), &mut got).unwrap();
        let mut expected = Vec::new();
        for (first, payload) in payloads {
            write_frame(&mut expected, if first == 0x89 { 0x8a } else { first }, payload).unwrap();
        }
        assert_eq!(got, expected);
    }

    #[test]
    fn a_frame_that_is_too_large_or_unmasked_ends_the_session() {
        let huge = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
        assert!(echo(&mut huge.as_slice(), &mut Vec::new()).is_err());
        assert!(echo(&mut &[0x81, 0x01, b'x'][..], &mut Vec::new()).is_err());
    }
}
