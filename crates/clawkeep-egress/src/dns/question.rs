//! A resolver's message, read strictly, and the answer to it. Pure: hostile bytes in, bytes out.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

/// The largest datagram that is read or sent, in bytes: what passes every network in one piece (RFC 9715).
pub const MAX_DATAGRAM: usize = 1_232;

/// What every resolver takes (RFC 1035, 4.2.1).
const SMALLEST_DATAGRAM: u16 = 512;

/// A header of the protocol, in bytes.
const HEADER: usize = 12;

/// Addresses in one answer at most: with the longest name they fit into the smallest datagram.
const MAX_ADDRESSES: usize = 8;

/// For how long an answer may be remembered inside, in seconds. Short: the policy may change at any time.
const TTL: u32 = 30;

/// What came.
pub enum Read {
    /// Nothing to be answered: no message, or itself an answer.
    Nothing,
    /// Answered at once: what is no plain question.
    Answered(Vec<u8>),
    /// A question.
    Question(Box<Question>),
}

/// One plain question of the Internet class.
pub struct Question {
    message: Message,
    /// The name in lower case without the last dot; what is not plain is escaped.
    pub name: String,
    /// Which addresses are asked for; `None`: something else.
    pub addresses: Option<Family>,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Records of type A.
    V4,
    /// Records of type AAAA.
    V6,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These, as far as they are of the family that is asked for. Perhaps none: the name is there all the same.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// Not now: too many questions.
    Refused,
    /// It could not be found out.
    Failed,
}

/// Read a message.
pub fn read(bytes: &[u8]) -> Read {
    let Some(header) = bytes.get(..HEADER) else { return Read::Nothing };
    let message = match Message::from_vec(bytes) {
        Ok(message) => message,
        // Only to what asks: an answer to an answer would go on for ever.
        Err(_) if header[2] & 0x80 != 0 => return Read::Nothing,
        Err(_) => {
            let id = u16::from_be_bytes([header[0], header[1]]);
            return error(&Message::new(id, MessageType::Query, OpCode::Query), ResponseCode::FormErr);
        }
    };
    if message.metadata.message_type == MessageType::Response {
        return Read::Nothing;
    }
    if message.metadata.op_code != OpCode::Query {
        return error(&message, ResponseCode::NotImp);
    }
    let [query] = message.queries.as_slice() else { return error(&message, ResponseCode::FormErr) };
    if !message.answers.is_empty() || !message.authorities.is_empty() {
        return error(&message, ResponseCode::FormErr);
    }
    if query.query_class() != DNSClass::IN {
        return error(&message, ResponseCode::Refused);
    }
    let addresses = match query.query_type() {
        RecordType::A => Some(Family::V4),
        RecordType::AAAA => Some(Family::V6),
        _ => None,
    };
    let mut name = query.name().to_ascii().to_ascii_lowercase();
    if name.len() > 1 && name.ends_with('.') {
        name.pop();
    }
    Read::Question(Box::new(Question { message, name, addresses }))
}

fn error(message: &Message, code: ResponseCode) -> Read {
    match reply(message, code).to_vec() {
        Ok(bytes) => Read::Answered(bytes),
        Err(_) => Read::Nothing,
    }
}

/// An answer without records. Only a question that there is one of is said again.
fn reply(to: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::error_msg(to.metadata.id, to.metadata.op_code, code);
    reply.metadata.recursion_desired = to.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    if let [query] = to.queries.as_slice() {
        reply.add_query(query.clone());
    }
    if to.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM as u16);
        reply.set_edns(edns);
    }
    reply
}

impl Question {
    /// The most bytes that a datagram in answer may have.
    pub fn max_datagram(&self) -> usize {
        let asked = self.message.edns.as_ref().map_or(SMALLEST_DATAGRAM, Edns::max_payload);
        usize::from(asked.max(SMALLEST_DATAGRAM)).min(MAX_DATAGRAM)
    }

    /// The answer in bytes, cut to `most` of them (with the mark that says so). `None` for what cannot be written.
    pub fn answer(&self, answer: &Answer, most: usize) -> Option<Vec<u8>> {
        let code = match answer {
            Answer::Addresses(_) => ResponseCode::NoError,
            Answer::NoSuchName => ResponseCode::NXDomain,
            Answer::Refused => ResponseCode::Refused,
            Answer::Failed => ResponseCode::ServFail,
        };
        let mut reply = reply(&self.message, code);
        if let (Answer::Addresses(ips), [query]) = (answer, self.message.queries.as_slice()) {
            let of_family = ips.iter().filter_map(|ip| match (ip, self.addresses?) {
                (IpAddr::V4(v4), Family::V4) => Some(RData::A(A(*v4))),
                (IpAddr::V6(v6), Family::V6) => Some(RData::AAAA(AAAA(*v6))),
                _ => None,
            });
            let name = query.name();
            reply.add_answers(
                of_family.take(MAX_ADDRESSES).map(|data| Record::from_rdata(name.clone(), TTL, data)),
            );
        }
        let bytes = reply.to_vec().ok()?;
        if bytes.len() <= most { Some(bytes) } else { reply.truncate().to_vec().ok() }
    }
}
