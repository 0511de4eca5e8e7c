//! A cluster that tells its clients for a moment that it has no brokers, as one does whose controller takes them for dead.

use std::collections::HashSet;
use std::sync::Mutex;

use bytes::{Buf, BufMut};
use rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER;
use rdkafka::types::RDKafkaApiKey;
use tidings::{Emitter, OutboxMode, PolicyOverride};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::support::events::{Ledger, Sequence};
use crate::support::relaying::RunningRelay;
use crate::world::{BROKER, World};

/// The version of the requests for metadata that is spoken here: the first that names the controller.
const METADATA_VERSION: i16 = 1;

/// Later ones (10 and above) name the leader's address, past what is said here.
const PRODUCE_VERSION: i16 = 7;

/// So many answers of a connection come at once. After one alone librdkafka begins anew; the next one keeps it from that.
const AT_ONCE: usize = 5;

/// The first of them tells of so many more topics, so that librdkafka has dropped the broker before it comes to the next one.
const OTHER_TOPICS: i32 = 1_000;

/// Which of the client's threads is first decides whether it loses its brokers for good: once in a round, mostly.
const ROUNDS: usize = 2;

const HOST: &str = "127.0.0.1";

/// The only way to the broker.
struct Way {
    /// Whether clients are told that there is none.
    is_denied: watch::Sender<bool>,
}

impl Way {
    async fn to(world: &mut World) -> Self {
        world.cluster.apiversion(RDKafkaApiKey::Metadata, Some(METADATA_VERSION), Some(METADATA_VERSION)).unwrap();
        world.cluster.apiversion(RDKafkaApiKey::Produce, Some(PRODUCE_VERSION), Some(PRODUCE_VERSION)).unwrap();
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let broker = std::mem::replace(&mut world.brokers, format!("{HOST}:{port}"));
        let is_denied = watch::Sender::new(false);
        let told = is_denied.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&broker).await else { continue };
                tokio::spawn(carry(client, server, port, told.clone()));
            }
        });
        Self { is_denied }
    }

    /// Tells a client that there is no broker, in several answers at once.
    async fn deny(&self) {
        self.is_denied.send_replace(true);
        self.is_denied.subscribe().wait_for(|is_denied| !is_denied).await.unwrap();
    }
}

async fn carry(client: TcpStream, server: TcpStream, port: u16, is_denied: watch::Sender<bool>) {
    let ((mut from_client, to_client), (from_server, mut to_server)) = (client.into_split(), server.into_split());
    let asked = Mutex::new(HashSet::new());
    let requests = async {
        while let Some(request) = frame(&mut from_client).await {
            if request.starts_with(&(RDKafkaApiKey::Metadata as i16).to_be_bytes()) {
                asked.lock().unwrap().insert(request[4..8].to_vec());
            }
            if to_server.write_all(&framed(&request)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = answers(from_server, to_client, &asked, port, is_denied) => {}
    }
}

/// Carries the answers, those apart that are of metadata.
async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    asked: &Mutex<HashSet<Vec<u8>>>,
    port: u16,
    is_denied: watch::Sender<bool>,
) {
    let (sender, mut received) = mpsc::unbounded_channel();
    let read = async {
        while let Some(answer) = frame(&mut from).await {
            let _ = sender.send(answer);
        }
    };
    let write = async {
        let (mut held, mut changes) = (Vec::new(), is_denied.subscribe());
        loop {
            let answer = tokio::select! {
                answer = received.recv() => answer,
                _ = changes.changed() => None,
            };
            let mut out = Vec::new();
            match answer {
                Some(answer) if asked.lock().unwrap().remove(&answer[..4]) => held.push(answer),
                Some(answer) => out = framed(&answer),
                None => {}
            }
            if !*changes.borrow() {
                out.extend(held.drain(..).flat_map(|answer: Vec<u8>| framed(&with(Some(port), 0, &answer))));
            } else if held.len() >= AT_ONCE {
                let others = std::iter::once(OTHER_TOPICS).chain(std::iter::repeat(0));
                let answers = held.drain(..).zip(others);
                out.extend(answers.flat_map(|(answer, others)| framed(&with(None, others, &answer))));
                is_denied.send_replace(false);
            }
            if to.write_all(&out).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

/// An answer of metadata, as if there were one broker, at this port, or none; and so many other topics.
fn with(port: Option<u16>, others: i32, answer: &[u8]) -> Vec<u8> {
    let (correlation, mut rest) = answer.split_at(4);
    let skip_text = |rest: &mut &[u8]| {
        let bytes = rest.get_i16();
        rest.advance(usize::try_from(bytes).unwrap_or(0)); // -1 stands for no text
    };
    for _ in 0..rest.get_i32() {
        rest.advance(4); // its number
        skip_text(&mut rest); // its host
        rest.advance(4); // its port
        skip_text(&mut rest); // its rack
    }
    let mut all = correlation.to_vec();
    all.put_i32(port.is_some().into());
    if let Some(port) = port {
        all.put_i32(BROKER);
        put_text(&mut all, HOST);
        all.put_i32(port.into());
        all.put_i16(-1); // no rack
    }
    all.put_i32(rest.get_i32()); // the controller
    all.put_i32(rest.get_i32() + others);
    all.put_slice(rest);
    for topic in 0..others {
        all.put_i16(0); // no error
        put_text(&mut all, &format!("other-{topic:0100}"));
        all.put_u8(0); // no topic of the brokers' own
        all.put_i32(0); // no partitions
    }
    all
}

fn put_text(all: &mut Vec<u8>, text: &str) {
    all.put_i16(text.len().try_into().unwrap());
    all.put_slice(text.as_bytes());
}

async fn frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut frame = vec![0; usize::try_from(from.read_i32().await.ok()?).ok()?];
    from.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes()[..], bytes].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_told_that_there_are_no_brokers_finds_them_again() {
    let mut world = World::new().await;
    let way = Way::to(&mut world).await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (ledger, always) = (Ledger::default(), PolicyOverride::default().with_outbox(OutboxMode::Always));
    let mut sequence = Sequence::of("tenant-1");
    for _ in 0..ROUNDS {
        let event = sequence.next();
        producer.emit(event.request().policy(always)).await.unwrap();
        ledger.accept(event);
        world.drained().await;
        // So that the client asks for another leader, again and again.
        world.cluster.request_errors(RDKafkaApiKey::Produce, &[NOT_LEADER; 100]);
        let event = sequence.next();
        producer.emit(event.request().policy(always)).await.unwrap();
        ledger.accept(event);
        way.deny().await;
        world.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    }
    world.verdict(&ledger).await.assert_kept();
}
