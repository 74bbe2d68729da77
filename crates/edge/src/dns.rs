//! Names for instances: `*.hob.internal` is the gateway, everything else is asked of the host's resolvers.
//!
//! Asked by UDP, and by TCP (`dns_tcp`) for answers that are too long for that.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::rc::Rc;
use std::time::Duration;

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::table::INTERNAL_SUFFIX;

/// Most questions at once that wait for a resolver; beyond it: SERVFAIL.
const MAX_WAITING: usize = 512;
/// How long one resolver may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most resolvers that one question is taken to.
const MAX_RESOLVERS: usize = 3;
/// How long clients may remember a name of ours. The address behind it does not change with rollouts.
const TTL_S: u32 = 30;
/// Longest message that is read; longer ones arrive truncated and say so.
const MAX_MESSAGE: usize = 4096;
const HEADER: usize = 12;

/// Answers on one socket.
pub struct Resolver {
    socket: UdpSocket,
    gateway: Ipv4Addr,
    upstreams: Vec<Rc<Upstream>>,
}

/// One of the host's resolvers, and a socket made in the namespace from which it can be reached.
///
/// The socket is not connected. Connecting needs a route to the resolver at that moment, which a machine without a
/// network has not, and keeps the address that the machine has then.
pub struct HostResolver {
    address: SocketAddr,
    socket: StdUdpSocket,
}

impl HostResolver {
    /// # Errors
    /// Where this host has no sockets of the address's family.
    pub fn at(address: SocketAddr) -> io::Result<HostResolver> {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        Ok(HostResolver {
            address,
            socket: StdUdpSocket::bind(any)?,
        })
    }
}

/// A resolver, and the questions that wait for it by the ids that we gave them.
struct Upstream {
    address: SocketAddr,
    socket: UdpSocket,
    waiting: RefCell<HashMap<u16, Waiting>>,
}

struct Waiting {
    question: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

impl Resolver {
    /// # Errors
    /// When the sockets cannot be used asynchronously.
    pub fn new(socket: StdUdpSocket, gateway: Ipv4Addr, upstreams: Vec<HostResolver>) -> io::Result<Resolver> {
        let adopt = |socket: StdUdpSocket| {
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        };
        let upstream = |resolver: HostResolver| {
            Ok(Rc::new(Upstream {
                address: resolver.address,
                socket: adopt(resolver.socket)?,
                waiting: RefCell::default(),
            }))
        };
        let upstreams = upstreams
            .into_iter()
            .take(MAX_RESOLVERS)
            .map(upstream)
            .collect::<io::Result<_>>()?;
        Ok(Resolver {
            socket: adopt(socket)?,
            gateway,
            upstreams,
        })
    }

    /// Answers for as long as the edge runs.
    pub async fn serve(self: Rc<Self>) {
        let resolver = self;
        for upstream in &resolver.upstreams {
            spawn_local(Rc::clone(upstream).listen());
        }
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let (len, from) = match resolver.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(error = %error, "cannot receive a DNS question");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            match read_question(&buffer[..len], resolver.gateway) {
                Question::Malformed => {}
                Question::Answered(answer) => resolver.send(&answer, from).await,
                Question::Elsewhere { question_end } => {
                    let query = buffer[..len].to_vec();
                    spawn_local(Rc::clone(&resolver).forward(query, question_end, from));
                }
            }
        }
    }

    async fn send(&self, answer: &[u8], to: SocketAddr) {
        if let Err(error) = self.socket.send_to(answer, to).await {
            tracing::debug!(client.address = %to, error = %error, "cannot send a DNS answer");
        }
    }

    async fn forward(self: Rc<Self>, query: Vec<u8>, question_end: usize, from: SocketAddr) {
        if let Some(answer) = self.ask_elsewhere(query, question_end).await {
            self.send(&answer, from).await;
        }
    }

    /// The answer of the first of the host's resolvers that gives one, else one that says that none did.
    async fn ask_elsewhere(&self, mut query: Vec<u8>, question_end: usize) -> Option<Vec<u8>> {
        for upstream in &self.upstreams {
            if let Some(answer) = upstream.ask(&mut query, question_end).await {
                return Some(answer);
            }
        }
        server_failure(&query, question_end)
    }

    /// The answer to a question that was not asked by UDP. It may be as long as our own resolvers send by UDP when they
    /// are told that much is taken. Nothing for what is no question.
    pub async fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        match read_question(message, self.gateway) {
            Question::Malformed => None,
            Question::Answered(answer) => Some(answer),
            Question::Elsewhere { question_end } => {
                let query = widened(message.get(..question_end)?);
                self.ask_elsewhere(query, question_end).await
            }
        }
    }
}

impl Upstream {
    async fn listen(self: Rc<Self>) {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let Ok((len, from)) = self.socket.recv_from(&mut buffer).await else {
                // Whoever waits runs into its deadline.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if from != self.address {
                continue;
            }
            let answer = &buffer[..len];
            let Some(id) = answer.first_chunk::<2>().map(|id| u16::from_be_bytes(*id)) else {
                continue;
            };
            let mut waiting = self.waiting.borrow_mut();
            let is_ours = waiting.get(&id).is_some_and(|entry| {
                let question = answer.get(HEADER..HEADER + entry.question.len());
                question.is_some_and(|question| question.eq_ignore_ascii_case(&entry.question)) && answer[2] & 0x80 != 0
            });
            if is_ours && let Some(entry) = waiting.remove(&id) {
                let _ = entry.answer.send(answer.to_vec());
            }
        }
    }

    /// The resolver's answer under the query's own id. Nothing when it is late, or too many wait already.
    async fn ask(&self, query: &mut [u8], question_end: usize) -> Option<Vec<u8>> {
        let own_id = *query.first_chunk::<2>()?;
        let (id, answer) = self.expect(query[HEADER..question_end].to_vec())?;
        query[..2].copy_from_slice(&id.to_be_bytes());
        let answer = match self.socket.send_to(query, self.address).await {
            Ok(_) => timeout(PATIENCE, answer).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        self.waiting.borrow_mut().remove(&id);
        query[..2].copy_from_slice(&own_id);
        let mut answer = answer?;
        answer[..2].copy_from_slice(&own_id);
        Some(answer)
    }

    /// Registers a question under an id that nobody can guess and nobody else has.
    fn expect(&self, question: Vec<u8>) -> Option<(u16, oneshot::Receiver<Vec<u8>>)> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= MAX_WAITING {
            return None;
        }
        let [a, b, ..] = uuid::Uuid::new_v4().into_bytes();
        let mut id = u16::from_be_bytes([a, b]);
        while waiting.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let (answer, receiver) = oneshot::channel();
        waiting.insert(id, Waiting { question, answer });
        Some((id, receiver))
    }
}

/// What becomes of a message.
enum Question {
    Malformed,
    Answered(Vec<u8>),
    Elsewhere { question_end: usize },
}

fn read_question(message: &[u8], gateway: Ipv4Addr) -> Question {
    let Some(question_end) = question_end(message) else {
        return Question::Malformed;
    };
    let Ok(packet) = Packet::parse(message) else {
        return Question::Malformed;
    };
    let is_query = !packet.has_flags(PacketFlag::RESPONSE) && packet.opcode() == OPCODE::StandardQuery;
    let [question] = packet.questions.as_slice() else {
        return Question::Malformed;
    };
    if !is_query {
        return Question::Malformed;
    }
    let name = question.qname.to_string().to_ascii_lowercase();
    if !format!(".{name}").ends_with(INTERNAL_SUFFIX) {
        return Question::Elsewhere { question_end };
    }
    let mut reply = Packet::new_reply(packet.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if packet.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    let asks_address = matches!(question.qtype, QTYPE::TYPE(TYPE::A) | QTYPE::ANY);
    let is_internet = matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
    if asks_address && is_internet {
        let address = RData::A(A {
            address: gateway.into(),
        });
        reply
            .answers
            .push(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL_S, address));
    }
    reply.questions.push(question.clone());
    reply.build_bytes_vec().map_or(Question::Malformed, Question::Answered)
}

/// Where the only question of a message ends. Nothing for a message that is not of that shape.
fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            label @ 1..=63 => at += usize::from(label) + 1,
            // A question comes first: it has nothing to point back to.
            _ => return None,
        }
    }
    let end = at + 1 + 4;
    (end <= message.len()).then_some(end)
}

/// A header and its question, and nothing else but the word that answers of up to [`MAX_MESSAGE`] are taken (EDNS, RFC
/// 6891).
fn widened(question: &[u8]) -> Vec<u8> {
    let mut query = question.to_vec();
    // One question, no answer, no authority, one additional record.
    query[6..HEADER].copy_from_slice(&[0, 0, 0, 0, 0, 1]);
    query.extend([0, 0, 41]);
    query.extend((MAX_MESSAGE as u16).to_be_bytes());
    query.extend([0; 6]);
    query
}

fn server_failure(query: &[u8], question_end: usize) -> Option<Vec<u8>> {
    let mut failure = query.get(..question_end)?.to_vec();
    let recursion_desired = failure[2] & 1;
    failure[2] = 0x80 | recursion_desired;
    failure[3] = 0x80 | RCODE::ServerFailure as u8;
    // One question, nothing else.
    failure[6..HEADER].fill(0);
    Some(failure)
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, Question as DnsQuestion};

    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    fn query(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(77);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        packet
            .questions
            .push(DnsQuestion::new(name, kind.into(), CLASS::IN.into(), false));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn a_name_inside_is_the_gateway_and_has_no_ipv6_address() {
        for (name, kind, answers) in [
            ("web.hob.internal", TYPE::A, 1),
            ("WEB.Hob.Internal", TYPE::A, 1),
            ("hob.internal", TYPE::A, 1),
            ("web.hob.internal", TYPE::AAAA, 0),
            ("web.hob.internal", TYPE::TXT, 0),
        ] {
            let Question::Answered(answer) = read_question(&query(name, kind), GATEWAY) else {
                panic!("{name} is not answered")
            };
            let answer = Packet::parse(&answer).unwrap();
            assert_eq!(
                (answer.id(), answer.rcode(), answer.answers.len()),
                (77, RCODE::NoError, answers),
                "{name}"
            );
            for record in &answer.answers {
                assert!(matches!(&record.rdata, RData::A(a) if Ipv4Addr::from(a.address) == GATEWAY));
            }
        }
    }

    #[test]
    fn other_names_are_asked_elsewhere() {
        for name in ["example.com", "nothob.internal", "hob.internal.example.com", "internal"] {
            assert!(
                matches!(
                    read_question(&query(name, TYPE::A), GATEWAY),
                    Question::Elsewhere { .. }
                ),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_no_question_is_dropped() {
        let good = query("web.hob.internal", TYPE::A);
        for cut in 0..good.len() {
            assert!(
                matches!(read_question(&good[..cut], GATEWAY), Question::Malformed),
                "cut at {cut}"
            );
        }
        let mut reply = good.clone();
        reply[2] |= 0x80;
        let mut two = good.clone();
        two[5] = 2;
        let mut pointer = good.clone();
        pointer[HEADER] = 0xc0;
        for bad in [reply, two, pointer] {
            assert!(matches!(read_question(&bad, GATEWAY), Question::Malformed));
        }
    }

    #[test]
    fn a_widened_question_is_the_same_one_with_more_room() {
        let query = query("example.com", TYPE::TXT);
        let widened = widened(&query);
        let packet = Packet::parse(&widened).unwrap();
        assert_eq!((packet.id(), packet.questions.len()), (77, 1));
        assert_eq!(packet.opt().unwrap().udp_packet_size, 4096);
        assert!(widened.starts_with(&query[..4]));
    }

    #[test]
    fn a_failure_repeats_the_question() {
        let query = query("example.com", TYPE::A);
        let failure = server_failure(&query, question_end(&query).unwrap()).unwrap();
        let failure = Packet::parse(&failure).unwrap();
        assert_eq!(
            (failure.id(), failure.rcode(), failure.questions.len()),
            (77, RCODE::ServerFailure, 1)
        );
    }
}
