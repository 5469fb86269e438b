use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use clawkeep_policy::{Matcher, Policy};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

use super::*;
use crate::resolver::Resolving;

/// What is known outside, and how often somebody asked.
struct World {
    known: HashMap<&'static str, Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Resolver for World {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let found = self.known.get(name).cloned();
        Box::pin(async move { found.ok_or_else(|| io::Error::other("no such name")) })
    }
}

struct Setup {
    stub: Arc<DnsStub>,
    world: Arc<World>,
    policy: LivePolicy,
    events: mpsc::Receiver<Event>,
}

fn matcher(hosts: &[&str]) -> Matcher {
    let endpoints: String =
        hosts.iter().map(|host| format!("      - {{ host: '{host}', port: 443 }}\n")).collect();
    let yaml = format!(
        "version: 1\nnetwork_policies:\n  some:\n    endpoints:\n{endpoints}    binaries: [{{ path: /usr/bin/curl }}]\n"
    );
    Matcher::new(&Policy::read(&yaml).unwrap().policy)
}

fn setup(hosts: &[&str]) -> Setup {
    let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
    let known = HashMap::from([
        ("api.example.com", ips(&["8.8.8.8", "2606:4700::1"])),
        ("a.example.com", ips(&["8.8.4.4"])),
        ("inside.example.com", ips(&["10.0.0.1"])),
        ("mixed.example.com", ips(&["8.8.8.8", "192.168.0.1"])),
        ("many.example.com", (0..40).map(|last| IpAddr::from([8, 8, 8, last])).collect()),
    ]);
    let world = Arc::new(World { known, asked: AtomicUsize::new(0) });
    let policy = LivePolicy::new(matcher(hosts));
    let (tell, events) = mpsc::channel(16);
    let resolver: Arc<dyn Resolver> = Arc::clone(&world) as _;
    Setup { stub: Arc::new(DnsStub::new(policy.clone(), resolver, tell)), world, policy, events }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

impl Setup {
    async fn say(&self, message: &Message) -> Option<Message> {
        let bytes = self.stub.answer(&message.to_vec().unwrap(), Question::max_datagram).await?;
        assert!(bytes.len() <= MAX_DATAGRAM);
        Some(Message::from_vec(&bytes).unwrap())
    }

    async fn ask(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<IpAddr>) {
        let answer = self.say(&question(name, kind)).await.unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.message_type), (7, MessageType::Response));
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        let ips = answer.answers.iter().map(|record| match &record.data {
            RData::A(v4) => IpAddr::V4(v4.0),
            RData::AAAA(v6) => IpAddr::V6(v6.0),
            other => panic!("{other:?}"),
        });
        (answer.metadata.response_code, ips.collect())
    }

    fn asked(&self) -> usize {
        self.world.asked.load(Ordering::SeqCst)
    }

    fn told(&mut self) -> Vec<(String, Reason)> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|event| (event.host, event.reason)).collect()
    }
}

fn ip(text: &str) -> Vec<IpAddr> {
    vec![text.parse().unwrap()]
}

#[tokio::test]
async fn what_a_rule_names_is_answered_and_asked_for_once() {
    let mut setup = setup(&["api.example.com"]);
    for name in ["api.example.com", "API.eXample.com."] {
        assert_eq!(setup.ask(name, RecordType::A).await, (ResponseCode::NoError, ip("8.8.8.8")));
        assert_eq!(setup.ask(name, RecordType::AAAA).await, (ResponseCode::NoError, ip("2606:4700::1")));
        assert_eq!(setup.ask(name, RecordType::HTTPS).await, (ResponseCode::NoError, vec![]));
        assert_eq!(setup.ask(name, RecordType::TXT).await, (ResponseCode::NoError, vec![]));
    }
    assert_eq!(setup.asked(), 1);
    assert_eq!(setup.told(), []);
}

#[tokio::test]
async fn of_anything_else_nobody_outside_hears() {
    let mut setup = setup(&["api.example.com", "*.example.org"]);
    for name in
        ["example.com", "x.api.example.com", "evil.test", "8.8.8.8", "api\\.example.com", ".", "example.org"]
    {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::ANY] {
            assert_eq!(setup.ask(name, kind).await, (ResponseCode::NXDomain, vec![]), "{name}");
        }
    }
    assert_eq!(setup.ask("1.0.0.127.in-addr.arpa", RecordType::PTR).await.0, ResponseCode::NXDomain);
    assert_eq!(setup.asked(), 0);
    let told = setup.told();
    assert_eq!(told.len(), 7, "each once: {told:?}");
    assert_eq!(told[0], ("example.com".to_owned(), Reason::Policy(clawkeep_policy::Reason::Host)));
}

#[tokio::test]
async fn what_only_the_proxy_reaches_has_an_address_of_nobody() {
    let setup = setup(&["host.docker.internal"]);
    for name in ["inference.local", "host.docker.internal"] {
        assert_eq!(setup.ask(name, RecordType::A).await, (ResponseCode::NoError, ip("192.0.2.1")));
        assert_eq!(setup.ask(name, RecordType::AAAA).await, (ResponseCode::NoError, vec![]));
    }
    assert_eq!(setup.ask("host.openshell.internal", RecordType::A).await.0, ResponseCode::NXDomain);
    assert_eq!(setup.asked(), 0);
}

#[tokio::test]
async fn addresses_that_the_proxy_would_not_dial_are_not_told() {
    let mut setup = setup(&["*.example.com"]);
    for name in ["inside.example.com", "mixed.example.com"] {
        assert_eq!(setup.ask(name, RecordType::A).await, (ResponseCode::NoError, vec![]));
    }
    let internal = Reason::Policy(clawkeep_policy::Reason::InternalAddress);
    assert_eq!(
        setup.told(),
        [("inside.example.com".to_owned(), internal), ("mixed.example.com".to_owned(), internal)]
    );
    let (code, ips) = setup.ask("many.example.com", RecordType::A).await;
    assert_eq!((code, ips.len()), (ResponseCode::NoError, 8));
}

#[tokio::test]
async fn names_under_wildcards_carry_little_out() {
    let mut setup = setup(&["*.example.com", "api.example.com"]);
    let long = format!("{}.example.com", "x".repeat(49));
    assert_eq!(setup.ask(&long, RecordType::A).await.0, ResponseCode::NXDomain);
    assert_eq!(setup.asked(), 0);
    for number in 0..30 {
        setup.ask(&format!("n{number}.example.com"), RecordType::A).await;
    }
    let asked = setup.asked();
    // One more every three seconds, should this machine be slow.
    assert!((20..=25).contains(&asked), "{asked}");
    let told = setup.told();
    assert_eq!(told[0], (long, Reason::LongName));
    assert!(told[1..].iter().all(|(_, reason)| *reason == Reason::ManyNames) && told.len() > 4, "{told:?}");
    // What a rule names by itself is not among them.
    assert_eq!(setup.ask("api.example.com", RecordType::A).await, (ResponseCode::NoError, ip("8.8.8.8")));
}

#[tokio::test]
async fn a_new_policy_holds_for_what_is_remembered_too() {
    let setup = setup(&["api.example.com"]);
    assert_eq!(setup.ask("api.example.com", RecordType::A).await.1, ip("8.8.8.8"));
    setup.policy.replace(Matcher::nothing());
    assert_eq!(setup.ask("api.example.com", RecordType::A).await, (ResponseCode::NXDomain, vec![]));
    assert_eq!(setup.ask("inference.local", RecordType::A).await.0, ResponseCode::NoError);
}

#[tokio::test]
async fn what_cannot_be_found_out_is_no_statement_about_the_name() {
    let setup = setup(&["gone.example.com"]);
    for _ in 0..3 {
        assert_eq!(setup.ask("gone.example.com", RecordType::A).await, (ResponseCode::ServFail, vec![]));
    }
    assert_eq!(setup.asked(), 1);
}

#[tokio::test]
async fn what_is_no_plain_question_is_refused_without_a_look_at_it() {
    let setup = setup(&["api.example.com"]);
    let plain = question("api.example.com", RecordType::A);
    let code = async |change: fn(&mut Message)| {
        let mut message = plain.clone();
        change(&mut message);
        setup.say(&message).await.map(|answer| answer.metadata.response_code)
    };
    assert_eq!(code(|_| {}).await, Some(ResponseCode::NoError));
    assert_eq!(code(|m| m.metadata.message_type = MessageType::Response).await, None);
    assert_eq!(code(|m| m.metadata.op_code = OpCode::Update).await, Some(ResponseCode::NotImp));
    assert_eq!(code(|m| m.queries.clear()).await, Some(ResponseCode::FormErr));
    assert_eq!(code(|m| m.queries.push(m.queries[0].clone())).await, Some(ResponseCode::FormErr));
    let chaos = |m: &mut Message| {
        m.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    };
    assert_eq!(code(chaos).await, Some(ResponseCode::Refused));
    let extended = |m: &mut Message| {
        m.set_edns(Edns::new());
    };
    assert_eq!(code(extended).await, Some(ResponseCode::NoError));
    assert_eq!(setup.asked(), 1);
    assert!(setup.stub.answer(&[0; 11], Question::max_datagram).await.is_none());
    // A question that ends too early.
    let cut = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'a'];
    let answer = setup.stub.answer(&cut, Question::max_datagram).await.unwrap();
    assert_eq!((&answer[..2], answer[3] & 0xf), ([0, 9].as_slice(), 1));
}

#[tokio::test]
async fn a_flood_is_refused() {
    let setup = setup(&["api.example.com"]);
    let mut refused = 0;
    for _ in 0..2_000 {
        refused += u32::from(setup.ask("api.example.com", RecordType::A).await.0 == ResponseCode::Refused);
    }
    assert!(refused > 0);
    assert_eq!(setup.asked(), 1);
}

#[test]
fn the_longest_name_and_eight_addresses_fit_into_the_smallest_datagram() {
    let label = "x".repeat(61);
    let name = [label.as_str(); 4].join(".");
    let message = question(&name, RecordType::AAAA);
    let Read::Question(question) = question::read(&message.to_vec().unwrap()) else { panic!() };
    let ips: Vec<IpAddr> = (0..20).map(|last| IpAddr::from([0x2606, 0, 0, 0, 0, 0, 0, last])).collect();
    let bytes = question.answer(&Answer::Addresses(ips.clone()), question.max_datagram()).unwrap();
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!((question.max_datagram(), answer.answers.len(), answer.metadata.truncation), (512, 8, false));
    let cut = question.answer(&Answer::Addresses(ips), 300).unwrap();
    let cut_message = Message::from_vec(&cut).unwrap();
    assert!(cut.len() <= 300 && cut_message.metadata.truncation && cut_message.answers.is_empty());
}

#[tokio::test]
async fn both_ways_of_asking_are_served() {
    let Setup { stub, .. } = setup(&["api.example.com"]);
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (udp_at, tcp_at) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let stub = Arc::into_inner(stub).unwrap();
    let serving = tokio::spawn(stub.serve(udp, tcp));
    let asking = question("api.example.com", RecordType::A).to_vec().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(&asking, udp_at).await.unwrap();
    let mut bytes = [0; 512];
    let (length, from) = client.recv_from(&mut bytes).await.unwrap();
    assert_eq!(from, udp_at);
    let mut stream = TcpStream::connect(tcp_at).await.unwrap();
    // Two on one connection.
    for _ in 0..2 {
        stream.write_u16(asking.len() as u16).await.unwrap();
        stream.write_all(&asking).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, bytes[..length]);
    }
    stream.write_u16(u16::MAX).await.unwrap();
    assert_eq!(stream.read(&mut bytes).await.unwrap(), 0, "too long a question ends the connection");
    serving.abort();
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Read::Question(question) = question::read(&bytes) {
            prop_assert!(question.name.is_ascii());
            prop_assert!(question.answer(&Answer::NoSuchName, question.max_datagram()).is_some());
        }
    }
}
