//! One TCP connection to one broker, with several requests in flight.
//!
//! # Guarantees
//! - Frames are written whole and in the order of [`Connection::send`]: the socket belongs to two tasks, so no caller's
//!   cancellation can cut a frame. The tasks end with the last handle (`Connection` or [`InFlight`]).
//! - An answer is matched with its request by order *and* correlation id. One that does not match ends the connection.
//! - A request fails with a time-out when nothing at all moved on the connection for the request time-out (plus what the
//!   request may take on purpose); a slow, large answer that keeps coming is not cut.
//! - After a broker asked to be left alone (KIP-219) nothing is written until that time is over.
//! - A connection with a condition ([`Connection::write_only_while`]) looks at it right before each write to the socket: a process that
//!   was frozen with a frame in its hands, or in the middle of one, does not go on writing it.
//! - Where the broker lets a session live for a while only (KIP-368), it is proven anew in time: requests that are sent meanwhile wait,
//!   and go in their order when the broker is content. Requests that were in flight are answered.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use kafka_backup_shared::report::Fault;
use kafka_protocol::protocol::{HeaderVersion, StrBytes, VersionRange};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{Api, negotiate};
use super::client::ClientConfig;
use super::error::{KafkaError, Lost, chain};
use super::frame::{self, Frame};
use super::handshake::shake_hands;
use super::sasl;
use super::security::{Credentials, Security};
use super::transport::{self, Gate, OpenError};
use crate::buffers::Buffers;
use crate::measure;

/// Pieces of a frame that are written at once.
const PIECES: usize = 64;

/// The part of a session's life after which it is proven anew. Kafka's own clients take 85 to 95 percent.
const RENEWAL: f64 = 0.85;
/// Sooner after the last time a broker does not listen (`KafkaChannel.MIN_REAUTH_INTERVAL_ONE_SECOND_NANOS`).
const RENEWAL_MIN: Duration = Duration::from_millis(1100);

/// A connection to one broker; clones share it.
#[derive(Clone)]
pub struct Connection {
    wire: Arc<Wire>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.wire.broker)
    }
}

/// A request that was accepted for sending; a future of its answer.
///
/// An error means that the answer will never be known. Dropping it abandons the answer, not the connection.
#[must_use = "the answer comes by awaiting it"]
pub struct InFlight<T> {
    answer: Pin<Box<dyn Future<Output = Result<T, KafkaError>> + Send>>,
}

impl<T> fmt::Debug for InFlight<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}

impl<T> Future for InFlight<T> {
    type Output = Result<T, KafkaError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(context)
    }
}

impl<T: Send + 'static> InFlight<T> {
    /// The same request with its answer turned into something else.
    pub(crate) fn and_then<U>(
        self,
        read: impl FnOnce(T) -> Result<U, KafkaError> + Send + 'static,
    ) -> InFlight<U> {
        InFlight {
            answer: Box::pin(async move { read(self.await?) }),
        }
    }
}

struct Wire {
    broker: Arc<str>,
    client_id: StrBytes,
    versions: BTreeMap<i16, VersionRange>,
    request_timeout: Duration,
    correlation_ids: AtomicI32,
    frames: mpsc::UnboundedSender<Frame>,
    gate: Gate,
    state: Arc<State>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.end(Lost::Abandoned);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What handles and tasks share.
struct State {
    broker: Arc<str>,
    requests: Mutex<Requests>,
    /// Set when the connection ends, by whoever notices first.
    ended: CancellationToken,
    started: Instant,
    /// Milliseconds from `started` to when bytes last moved, or to when the broker wants to hear from us again.
    moved_ms: AtomicU64,
    quiet_until_ms: AtomicU64,
}

#[derive(Default)]
struct Requests {
    pending: VecDeque<Pending>,
    /// Requests that wait while the session is proven anew; `None` at all other times.
    held: Option<Vec<(Pending, Frame)>>,
    dead: Option<Lost>,
}

/// When a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// After those before it, and not while the session is proven anew.
    InOrder,
    /// It is what proves the session.
    PastHold,
}

struct Pending {
    correlation_id: i32,
    answer: oneshot::Sender<Result<Bytes, Lost>>,
}

impl State {
    fn new(broker: Arc<str>) -> Self {
        Self {
            broker,
            requests: Mutex::default(),
            ended: CancellationToken::new(),
            started: Instant::now(),
            moved_ms: AtomicU64::new(0),
            quiet_until_ms: AtomicU64::new(0),
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        // Nothing panics while it is held, and what it guards is whole at every moment.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, ms: u64) -> Instant {
        self.started + Duration::from_millis(ms)
    }

    fn moved(&self) {
        self.moved_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// When patience with the broker starts anew.
    fn last_moved(&self) -> Instant {
        let moved = self.moved_ms.load(Ordering::Relaxed);
        self.at(moved.max(self.quiet_until_ms.load(Ordering::Relaxed)))
    }

    fn throttle(&self, ms: i32) {
        let Some(ms) = u64::try_from(ms).ok().filter(|ms| *ms > 0) else {
            return;
        };
        tracing::debug!(broker = %self.broker, throttle_ms = ms, "broker throttles");
        self.quiet_until_ms
            .fetch_max(self.elapsed_ms() + ms, Ordering::Relaxed);
    }

    fn quiet_until(&self) -> Option<Instant> {
        let until = self.quiet_until_ms.load(Ordering::Relaxed);
        (until > self.elapsed_ms()).then(|| self.at(until))
    }

    /// Ends the connection; the first cause stays. Whoever waits for an answer is told.
    fn end(&self, cause: Lost) {
        let mut requests = self.requests();
        if requests.dead.is_some() {
            return;
        }
        requests.dead = Some(cause.clone());
        let mut pending = std::mem::take(&mut requests.pending);
        let held = requests.held.take().into_iter().flatten();
        pending.extend(held.map(|(request, _)| request));
        drop(requests);
        self.ended.cancel();
        tracing::debug!(broker = %self.broker, in_flight = pending.len(), cause = %cause, "connection ended");
        for request in pending {
            // Nobody may wait for it any more.
            drop(request.answer.send(Err(cause.clone())));
        }
    }
}

impl Connection {
    /// Connects to `host:port`, learns the broker's versions and proves who we are.
    pub(crate) async fn open(address: &str, config: &ClientConfig) -> Result<Self, KafkaError> {
        let security = &config.security;
        let opened = Self::open_and_prove(address, config).await;
        match &opened {
            Ok(_) => security.prove(),
            Err(error) if error.fault() == Fault::Denied && security.is_proven() => {
                let source = Arc::new(error.clone());
                return Err(KafkaError::DeniedNow { source });
            }
            Err(_) => {}
        }
        opened
    }

    async fn open_and_prove(address: &str, config: &ClientConfig) -> Result<Self, KafkaError> {
        let security = &config.security;
        let tls = security.tls()?;
        let credentials = security.credentials().await?;
        let gate = Gate::default();
        let mut stream = transport::open(address, tls, gate.clone(), config.connect_timeout)
            .await
            .map_err(|error| match error {
                OpenError::Tcp(source) => KafkaError::Connect {
                    address: address.to_owned(),
                    source: Arc::new(source),
                },
                OpenError::Tls(source) => KafkaError::Tls {
                    address: address.to_owned(),
                    trusted: security.trusted(),
                    source: Arc::new(source),
                },
            })?;
        let handshake =
            tokio::time::timeout(config.connect_timeout, shake_hands(&mut stream, config));
        let versions = handshake
            .await
            .unwrap_or(Err(Lost::TimedOut(config.connect_timeout)))
            .map_err(|cause| KafkaError::Handshake {
                address: address.to_owned(),
                cause,
            })?;
        tracing::debug!(broker = address, apis = versions.len(), "connected");
        let connection = Self::start(stream, address, versions, gate, config);
        let Some(credentials) = credentials else {
            return Ok(connection);
        };
        let proving = sasl::authenticate(&connection, &credentials);
        if let Some(lifetime) = proving.await? {
            let (wire, state) = (
                Arc::downgrade(&connection.wire),
                connection.wire.state.clone(),
            );
            tokio::spawn(renew(wire, state, config.security.clone(), lifetime));
        }
        Ok(connection)
    }

    /// Proves the session anew while other requests wait; gives how long that counts.
    async fn prove_anew(&self, credentials: &Credentials) -> Result<Option<Duration>, KafkaError> {
        self.wire.state.requests().held.get_or_insert_default();
        let lifetime = sasl::authenticate(self, credentials).await?;
        let mut requests = self.wire.state.requests();
        for (request, frame) in requests.held.take().into_iter().flatten() {
            requests.pending.push_back(request);
            drop(self.wire.frames.send(frame));
        }
        Ok(lifetime)
    }

    fn start(
        stream: Box<dyn transport::Stream>,
        address: &str,
        versions: BTreeMap<i16, VersionRange>,
        gate: Gate,
        config: &ClientConfig,
    ) -> Self {
        let broker: Arc<str> = Arc::from(address);
        let state = Arc::new(State::new(broker.clone()));
        let (frames, queue) = mpsc::unbounded_channel();
        let (reading, writing) = tokio::io::split(stream);
        let tasks = [
            tokio::spawn(read_answers(
                reading,
                state.clone(),
                config.max_response_bytes,
                config.buffers.clone(),
            )),
            tokio::spawn(write_frames(writing, state.clone(), queue)),
        ];
        Self {
            wire: Arc::new(Wire {
                broker,
                client_id: StrBytes::from_string(config.client_id.clone()),
                versions,
                request_timeout: config.request_timeout,
                correlation_ids: AtomicI32::new(1),
                frames,
                gate,
                state,
                tasks,
            }),
        }
    }

    /// From now on nothing is written unless `condition` is true; the connection ends when something is to be written and it is
    /// not. The first condition stays.
    pub fn write_only_while(&self, condition: impl Fn() -> bool + Send + Sync + 'static) {
        self.wire.gate.set(condition);
    }

    /// `host:port` of the broker.
    pub fn broker(&self) -> &Arc<str> {
        &self.wire.broker
    }

    /// Whether the connection has ended. It never comes back: open another one.
    pub fn is_dead(&self) -> bool {
        self.wire.state.requests().dead.is_some()
    }

    /// The version of a request that both sides know.
    ///
    /// # Errors
    /// There is none; both sides' versions are in the message.
    pub(crate) fn version<R: Api>(&self) -> Result<i16, KafkaError> {
        self.version_within::<R>(R::VERSIONS)
    }

    /// The same from fewer versions than we know.
    pub(crate) fn version_within<R: Api>(&self, ours: VersionRange) -> Result<i16, KafkaError> {
        let theirs = self.wire.versions.get(&(R::KEY as i16)).copied();
        negotiate(ours, theirs).ok_or_else(|| KafkaError::Unsupported {
            broker: self.wire.broker.clone(),
            api: R::KEY,
            ours,
            theirs,
            since: R::SINCE,
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Nothing was sent: the broker is too old, the request cannot be encoded, or the connection is dead.
    pub(crate) fn send<R: Api>(&self, request: &R) -> Result<InFlight<R::Response>, KafkaError> {
        self.send_patiently(request, Duration::ZERO)
    }

    /// Sends a request that may take `extra` on top of the request time-out, because it says so itself.
    pub(crate) fn send_patiently<R: Api>(
        &self,
        request: &R,
        extra: Duration,
    ) -> Result<InFlight<R::Response>, KafkaError> {
        self.encode_and_queue(request, extra, Turn::InOrder)
    }

    /// Sends a request of the exchange that others wait for.
    pub(super) fn send_past_hold<R: Api>(
        &self,
        request: &R,
    ) -> Result<InFlight<R::Response>, KafkaError> {
        self.encode_and_queue(request, Duration::ZERO, Turn::PastHold)
    }

    fn encode_and_queue<R: Api>(
        &self,
        request: &R,
        extra: Duration,
        turn: Turn,
    ) -> Result<InFlight<R::Response>, KafkaError> {
        let version = self.version::<R>()?;
        let id = self.next_correlation_id();
        let body = frame::encode(R::KEY, request, version, id, &self.wire.client_id);
        let body = body.map_err(request_error::<R>)?;
        self.queue::<R>(version, id, [body], extra, turn)
    }

    pub(crate) fn next_correlation_id(&self) -> i32 {
        self.wire.correlation_ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn client_id(&self) -> &StrBytes {
        &self.wire.client_id
    }

    /// Queues the pieces of an encoded request.
    pub(crate) fn submit<R: Api>(
        &self,
        version: i16,
        correlation_id: i32,
        pieces: impl IntoIterator<Item = Bytes>,
        extra: Duration,
    ) -> Result<InFlight<R::Response>, KafkaError> {
        self.queue::<R>(version, correlation_id, pieces, extra, Turn::InOrder)
    }

    fn queue<R: Api>(
        &self,
        version: i16,
        correlation_id: i32,
        pieces: impl IntoIterator<Item = Bytes>,
        extra: Duration,
        turn: Turn,
    ) -> Result<InFlight<R::Response>, KafkaError> {
        let frame = Frame::new(pieces).map_err(|error| request_error::<R>(error.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut requests = self.wire.state.requests();
            if let Some(cause) = &requests.dead {
                return Err(KafkaError::NotSent {
                    broker: self.wire.broker.clone(),
                    api: R::KEY,
                    cause: cause.clone(),
                });
            }
            tracing::trace!(broker = %self.wire.broker, api = ?R::KEY, "request");
            let request = Pending {
                correlation_id,
                answer: sender,
            };
            match &mut requests.held {
                Some(held) if turn == Turn::InOrder => held.push((request, frame)),
                Some(_) | None => {
                    requests.pending.push_back(request);
                    // Under the lock, so that the order of frames is the order of `pending`. The writer is gone only when the
                    // connection has ended, and then `pending` is told.
                    drop(self.wire.frames.send(frame));
                }
            }
        }
        let answer = answer::<R>(
            self.wire.clone(),
            receiver,
            version,
            Instant::now(),
            self.wire.request_timeout + extra,
        );
        Ok(InFlight {
            answer: Box::pin(answer),
        })
    }
}

fn request_error<R: Api>(detail: String) -> KafkaError {
    KafkaError::Request {
        api: R::KEY,
        detail,
    }
}

async fn answer<R: Api>(
    wire: Arc<Wire>,
    mut receiver: oneshot::Receiver<Result<Bytes, Lost>>,
    version: i16,
    sent: Instant,
    patience: Duration,
) -> Result<R::Response, KafkaError> {
    let mut deadline = sent + patience;
    let received = loop {
        tokio::select! {
            biased;
            received = &mut receiver => break received.unwrap_or(Err(Lost::Abandoned)),
            () = tokio::time::sleep_until(deadline) => {
                let patient_until = wire.state.last_moved() + patience;
                if patient_until <= Instant::now() {
                    // Ends all that is in flight, this request included.
                    wire.state.end(Lost::TimedOut(patience));
                }
                deadline = patient_until.max(Instant::now());
            }
        }
    };
    measure::observe_kafka(R::KEY, sent.elapsed());
    let frame = received.map_err(|cause| KafkaError::Lost {
        broker: wire.broker.clone(),
        api: R::KEY,
        cause,
    })?;
    let header_version = R::Response::header_version(version);
    let response = frame::decode::<R::Response>(frame, header_version, version);
    let response = response.map_err(|detail| KafkaError::Malformed {
        broker: wire.broker.clone(),
        api: R::KEY,
        detail,
    })?;
    wire.state.throttle(R::throttle_time_ms(&response));
    Ok(response)
}

/// Proves the session anew before the broker would end it (KIP-368), as long as the connection lives.
#[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
async fn renew(wire: Weak<Wire>, state: Arc<State>, security: Security, mut lifetime: Duration) {
    loop {
        tokio::select! {
            biased;
            () = state.ended.cancelled() => return,
            () = tokio::time::sleep(lifetime.mul_f64(RENEWAL).max(RENEWAL_MIN)) => {}
        }
        // Before anything waits: a token may take a while.
        let credentials = security.credentials().await;
        let Some(wire) = wire.upgrade() else { return };
        let connection = Connection { wire };
        let proven = match credentials {
            Ok(Some(credentials)) => connection.prove_anew(&credentials).await,
            Ok(None) => return,
            Err(error) => Err(error.into()),
        };
        match proven {
            Ok(Some(next)) => lifetime = next,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(broker = %state.broker, error = %chain(&error), "the session could not be proven anew");
                let source = match error.fault() {
                    Fault::Denied => KafkaError::DeniedNow {
                        source: Arc::new(error),
                    },
                    _ => error,
                };
                state.end(Lost::NotProven(Arc::new(source)));
                return;
            }
        }
    }
}

async fn read_answers(
    mut stream: impl AsyncRead + Unpin + Send,
    state: Arc<State>,
    max_response_bytes: usize,
    buffers: Buffers,
) {
    loop {
        let answer = tokio::select! {
            biased;
            () = state.ended.cancelled() => return,
            answer = frame::read(&mut stream, max_response_bytes, &buffers, || state.moved()) => answer,
        };
        if let Err(cause) = answer.and_then(|answer| deliver(&state, answer)) {
            state.end(cause);
            return;
        }
    }
}

fn deliver(state: &State, frame: Bytes) -> Result<(), Lost> {
    // A frame has at least the four bytes of its correlation id.
    let found = frame.chunk().get_i32();
    let mut requests = state.requests();
    let expected = requests.pending.front().map(|next| next.correlation_id);
    if expected != Some(found) {
        return Err(Lost::OutOfOrder { expected, found });
    }
    let request = requests.pending.pop_front();
    drop(requests);
    if let Some(request) = request {
        // Whoever sent it may have given up waiting; the answer is then of no use.
        drop(request.answer.send(Ok(frame)));
    }
    Ok(())
}

async fn write_frames(
    stream: impl AsyncWrite + Unpin + Send,
    state: Arc<State>,
    mut queue: mpsc::UnboundedReceiver<Frame>,
) {
    let writing = async {
        let mut stream = stream;
        while let Some(mut frame) = queue.recv().await {
            if let Some(until) = state.quiet_until() {
                tokio::time::sleep_until(until).await;
            }
            while frame.has_remaining() {
                let written = poll_fn(|context| {
                    let mut slices = [IoSlice::new(&[]); PIECES];
                    let count = frame.chunks_vectored(&mut slices);
                    Pin::new(&mut stream).poll_write_vectored(context, &slices[..count])
                });
                let written = written.await?;
                if written == 0 {
                    return Err(std::io::ErrorKind::WriteZero.into());
                }
                frame.advance(written);
                state.moved();
            }
            stream.flush().await?;
        }
        Ok(())
    };
    let written = tokio::select! {
        biased;
        () = state.ended.cancelled() => return,
        written = writing => written,
    };
    if let Err(error) = written {
        state.end(frame::lost(error));
    }
}
