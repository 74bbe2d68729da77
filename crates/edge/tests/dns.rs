//! Names, by UDP and by TCP.

mod rig;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use edge::{HostResolver, Limits};
use rig::{GATEWAY, Rig};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Addresses of the name that the resolver outside knows: more than fit into a datagram without EDNS.
const ADDRESSES: usize = 60;

/// A resolver outside. It sends short answers to those who say no more.
fn resolver() -> HostResolver {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let asked = HostResolver::at(socket.local_addr().expect("bound")).expect("a socket");
    socket.set_read_timeout(Some(rig::PATIENCE)).expect("a deadline");
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let query = Packet::parse(&buffer[..len]).expect("a query");
            let room = query.opt().map_or(512, |opt| usize::from(opt.udp_packet_size));
            let mut reply = Packet::new_reply(query.id());
            reply.questions = query.questions.clone();
            let name = query.questions[0].qname.clone();
            let record = |n: usize| {
                let address = Ipv4Addr::new(192, 0, 2, n as u8).into();
                ResourceRecord::new(name.clone(), CLASS::IN, 60, RData::A(A { address }))
            };
            reply.answers = (0..ADDRESSES).map(record).collect();
            if reply.build_bytes_vec_compressed().expect("a reply").len() > room {
                reply.answers.clear();
                reply.set_flags(PacketFlag::TRUNCATION);
            }
            let _ = socket.send_to(&reply.build_bytes_vec_compressed().expect("a reply"), from);
        }
    });
    asked
}

fn question(name: &str) -> Vec<u8> {
    let mut packet = Packet::new_query(4711);
    let name = Name::new(name).expect("a name");
    packet
        .questions
        .push(Question::new(name, TYPE::A.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().expect("a query")
}

async fn by_udp(address: SocketAddr, question: &[u8]) -> Vec<u8> {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    socket.send_to(question, address).await.expect("sends");
    let mut buffer = vec![0; 4096];
    let received = tokio::time::timeout(rig::PATIENCE, socket.recv(&mut buffer)).await;
    buffer.truncate(received.expect("in time").expect("an answer"));
    buffer
}

async fn by_tcp(stream: &mut TcpStream, question: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_u16(question.len().try_into().expect("short")).await?;
    stream.write_all(question).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_a_datagram_comes_by_tcp() {
    let rig = Rig::with_names(Limits::default(), vec![resolver()]);
    let [udp, tcp] = rig.names;
    let question = question("many.example.com");
    let short = by_udp(udp, &question).await;
    let short = Packet::parse(&short).expect("an answer");
    assert!(short.has_flags(PacketFlag::TRUNCATION) && short.answers.is_empty());
    let mut stream = TcpStream::connect(tcp).await.expect("the edge listens");
    let whole = by_tcp(&mut stream, &question).await.expect("an answer");
    let whole = Packet::parse(&whole).expect("an answer");
    assert_eq!((whole.id(), whole.answers.len()), (4711, ADDRESSES));
}

#[tokio::test]
async fn one_connection_asks_many_questions() {
    let rig = Rig::with_names(Limits::default(), vec![resolver()]);
    let mut stream = TcpStream::connect(rig.names[1]).await.expect("the edge listens");
    for _ in 0..3 {
        let inside = by_tcp(&mut stream, &question("web.hob.internal"))
            .await
            .expect("an answer");
        let inside = Packet::parse(&inside).expect("an answer");
        assert!(matches!(&inside.answers[0].rdata, RData::A(a) if Ipv4Addr::from(a.address) == GATEWAY));
        let outside = by_tcp(&mut stream, &question("many.example.com"))
            .await
            .expect("an answer");
        assert_eq!(Packet::parse(&outside).expect("an answer").answers.len(), ADDRESSES);
    }
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_nothing_else() {
    let rig = Rig::with_names(Limits::default(), vec![resolver()]);
    for nonsense in [&[0_u8; 0][..], &[0; 12], &[0xff; 64]] {
        let mut stream = TcpStream::connect(rig.names[1]).await.expect("the edge listens");
        assert!(by_tcp(&mut stream, nonsense).await.is_err());
    }
    let mut long = TcpStream::connect(rig.names[1]).await.expect("the edge listens");
    long.write_u16(u16::MAX).await.expect("sends");
    assert!(long.read_u16().await.is_err());
    let mut stream = TcpStream::connect(rig.names[1]).await.expect("the edge listens");
    assert!(by_tcp(&mut stream, &question("web.hob.internal")).await.is_ok());
}
