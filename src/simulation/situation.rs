//! What a run should have been through, some time.

macro_rules! situations {
    ($($name:ident: $what:literal,)+) => {
        /// An interesting situation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Situation { $(#[doc = $what] $name,)+ }

        impl Situation {
            pub(super) const ALL: &[Self] = &[$(Self::$name,)+];

            pub(super) fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)+ }
            }
        }
    };
}

situations! {
    SpillDuringBatch: "a lane is spilled during a batch",
    DirectAgain: "an event goes direct again after its lane was spilled",
    HandedOverInFlight: "a lane is to be handed over while rows are in flight",
    LeaseLostInFlight: "a lease is lost while rows are in flight",
    TakenOver: "a lane is taken over when its lease has run out",
    PageOfLostLane: "a page is being read when a lane of it is lost",
    LateCommit: "a number commits after a page has shown a higher one",
    DeadNumber: "a number is rolled back below one that shows",
    DeadTop: "a number is rolled back, none above it shows, and it is settled",
    ClosedUnderPin: "a gap is closed while an old transaction is open",
    CutPage: "a page is cut at its limit",
    Parked: "a key is parked",
    ParkedCrash: "a process crashes that has parked a key",
    ParkedDelivered: "a parked key is freed",
    DeadLettered: "the relay writes a dead letter",
    TakenAlone: "a leader that does not know a client takes a later record of it without an earlier one",
    FailedAhead: "a record fails while later ones of its key are in flight",
    LostAck: "an acknowledgement is lost",
    Ghost: "a record of a client that was given up arrives",
    RetiredInFlight: "a client is given up with records in flight",
    BreakerBySilence: "the breaker is opened by silence",
    BreakerByCut: "the breaker is opened since there is no broker",
    ExpiredAhead: "a direct record expires, and a later one of its key arrives",
    LockedOut: "a client is not let in while a record waits",
    QueueFull: "a client's queue is full",
    ClientFailed: "a client with records fails for good",
    LaneSpilledError: "an event that may not be stored finds its lane spilled in vain",
    NeverWaited: "an event that may not be stored waits for its lane and goes direct",
    DroppedDirect: "an emit is dropped while its record is in flight",
    DroppedStoring: "an emit is dropped while it stores",
    RolledBack: "an emit in a transaction is rolled back",
    CrashOpenTransaction: "a process crashes with a transaction open",
    AmbiguousCommit: "a commit is carried out and its answer lost",
    AmbiguousAppend: "an append is carried out and its answer lost",
    LateStatement: "a statement is carried out after its client has given up",
    CrashMidStatement: "a process crashes in the middle of a statement",
    SequenceJump: "the database crashes, and sequences jump forward",
    SetBack: "the database is set back, and events are lost with it",
    NumbersAgain: "numbers are given out again",
    ClockJump: "the database's clock jumps while lanes are leased",
    FrozenTooLong: "a process sleeps through its leases",
    TwoProcesses: "two processes publish events of one key",
    StoppedInFlight: "a process stops with rows in flight",
    Duplicate: "an event arrives twice",
    SameEpoch: "a relay's leases run out, and it gets the same ones again",
    Obeyed: "a relay does what an operator wants of a parked key",
    CommandResume: "an operator has a parked event tried again",
    CommandSkip: "an operator has a parked event left out",
    CommandDeadLetter: "an operator has a parked event dead-lettered",
    LateHead: "a number below the head of a parked key commits after that was parked",
    PassedParked: "an event passes a parked key of its lane",
    UnimpededByRefused: "an event is relayed in time while only records of other keys are refused",
    LanesChanged: "the number of lanes is changed",
    LanesNotChanged: "the number of lanes is not changed, since not everything is delivered",
    OtherLanes: "an append is refused, since there are other lanes now",
    WriterWaits: "a writer waits for others, or for a change of the lanes",
    NumberDrawnAgain: "a number that was rolled back is drawn again",
}
