//! The few requests to the kernel's routing socket that are needed, one at a time, each waiting for its answer.
//!
//! A socket belongs to the network namespace in which it was opened, wherever its thread goes later. That is how one
//! thread can build a cable between two namespaces.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::subnet::Subnet;

/// Datagrams of one answer that are read at most.
const DATAGRAMS_MAX: usize = 4096;

/// A bridge's own hardware address, locally administered. Without one a bridge takes the lowest of its ports', and
/// changes it whenever that port goes: then every instance sends to an address that is gone, until its neighbour entry
/// for the gateway expires, seconds later.
const BRIDGE_MAC: [u8; 6] = [0x02, b'h', b'o', b'b', 0x00, 0x01];

/// Loopback has this index in every network namespace.
pub const LOOPBACK: u32 = 1;

pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A device to be made: one end of a virtual cable.
pub struct CableEnd<'a> {
    pub name: &'a str,
    /// The namespace it goes to; `None`: the socket's own.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl Netlink {
    /// In the calling thread's network namespace.
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// `None` when there is no such device.
    pub fn index_of(&mut self, name: &str) -> io::Result<Option<u32>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
                _ => None,
            })),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Like [`Netlink::index_of`], for a device that must be there.
    pub fn must_find(&mut self, name: &str) -> io::Result<u32> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the network device {name} is missing"));
        self.index_of(name)?.ok_or_else(missing)
    }

    /// Names of all devices here.
    pub fn device_names(&mut self) -> io::Result<Vec<String>> {
        let answers = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        let name = |link: LinkMessage| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        };
        Ok(links.filter_map(name).collect())
    }
    /// Makes a bridge whose hardware address stays, whatever is plugged in.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        message.attributes.push(LinkAttribute::Address(BRIDGE_MAC.to_vec()));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes both ends of a virtual cable at once.
    pub fn add_cable(&mut self, one: &CableEnd<'_>, other: &CableEnd<'_>) -> io::Result<()> {
        let end = |end: &CableEnd<'_>| {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName(end.name.to_owned()));
            if let Some(namespace) = end.namespace {
                message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
            }
            message
        };
        let mut message = end(one);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(other)))),
        ]));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a device; the other end of a cable goes with it. No error when there is none.
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        let Some(index) = self.index_of(name)? else {
            return Ok(());
        };
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change(RouteNetlinkMessage::DelLink(message), 0)
    }

    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Plugs a device into a bridge, in a way that it talks to the bridge alone and to no other isolated port.
    pub fn plug_in_isolated(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.change(RouteNetlinkMessage::SetLink(message), 0)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
        ]));
        self.change(RouteNetlinkMessage::NewLink(message), 0)
    }

    /// No error when the device has the address already.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix_len;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
        message.attributes.push(AddressAttribute::Address(IpAddr::V4(address)));
        unless_there(self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL))
    }

    /// The way to everywhere else. No error when there is one already.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        unless_there(self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL))
    }

    /// Destinations of the IPv4 routes in the main table, the default route left out.
    pub fn routes(&mut self) -> io::Result<Vec<Subnet>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if route.header.table == RouteHeader::RT_TABLE_MAIN => Some(route),
            _ => None,
        });
        let destination = |route: RouteMessage| {
            let prefix_len = route.header.destination_prefix_length;
            route.attributes.into_iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Subnet::new(address, prefix_len).ok(),
                _ => None,
            })
        };
        Ok(routes.filter_map(destination).collect())
    }

    /// Addresses of all devices here, as the networks they are in.
    pub fn addresses(&mut self) -> io::Result<Vec<Subnet>> {
        let addresses = self.address_messages()?;
        let networks = addresses
            .into_iter()
            .filter_map(|(address, prefix_len)| Subnet::new(address, prefix_len).ok());
        Ok(networks.collect())
    }

    /// Addresses of all devices here, as such.
    pub fn host_addresses(&mut self) -> io::Result<Vec<Ipv4Addr>> {
        Ok(self
            .address_messages()?
            .into_iter()
            .map(|(address, _)| address)
            .collect())
    }

    fn address_messages(&mut self) -> io::Result<Vec<(Ipv4Addr, u8)>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self.ask(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        });
        // On a point-to-point device the other attribute is the other end.
        let own = |message: AddressMessage| {
            let prefix_len = message.header.prefix_len;
            message.attributes.into_iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some((address, prefix_len)),
                _ => None,
            })
        };
        Ok(addresses.filter_map(own).collect())
    }

    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends a request and collects the answers up to the acknowledgement, the end of the dump, or the one answer.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let several = flags & (NLM_F_DUMP | NLM_F_ACK) != 0;
        let mut answers = Vec::new();
        for _ in 0..DATAGRAMS_MAX {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let packet = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = (packet.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
                rest = &rest[length..];
                if packet.header.sequence_number != self.sequence {
                    continue;
                }
                match packet.payload {
                    NetlinkPayload::Error(error) => {
                        return error
                            .code
                            .map_or(Ok(answers), |code| Err(io::Error::from_raw_os_error(-code.get())));
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
            if !several && !answers.is_empty() {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the kernel's answer did not end"))
    }
}

fn unless_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}
