//! The statements.

pub(super) const APPEND: &str = "
    insert into tidings_outbox (lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version)
    values (?1, (select coalesce(max(seq), 0) + 1 from tidings_outbox where lane = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    returning seq";

pub(super) const HEADS: &str = "
    select (select coalesce(max(seq), 0) from tidings_outbox o where o.lane = l.lane) as last, published,
           (select min(seq) from tidings_held h where h.lane = l.lane) as held
    from tidings_lane l order by lane";

pub(super) const RELAYED: &str = "
    select owner is not null and lease_until > unixepoch('subsec') as relayed from tidings_lane order by lane";

/// How long the event of this lane and number waits, in seconds.
pub(super) const WAITS: &str = "
    select max(unixepoch('subsec') - created_at / 1000.0, 0.0) from tidings_outbox where lane = ?1 and seq = ?2";

pub(super) const RELAYS: &str = "select count(*) from tidings_relay where seen_until > unixepoch('subsec')";

pub(super) const SEEN: &str = "
    insert into tidings_relay (id, seen_until) values (?1, unixepoch('subsec') + ?2)
    on conflict (id) do update set seen_until = excluded.seen_until";

/// See the PostgreSQL outbox.
pub(super) const SHARE: &str = "
    select l.lanes / r.relays + (r.rank < l.lanes % r.relays) as lanes
    from (select count(*) as lanes from tidings_lane where not paused) l,
         (select count(*) + 1 as relays, count(*) filter (where id < ?1) as rank
          from tidings_relay where id <> ?1 and seen_until > unixepoch('subsec')) r";

/// Whether a lane is kept is told by the order of all that are owned; a lane that was just taken is within the share.
pub(super) const LEASE: &str = "
    update tidings_lane
    set epoch = epoch + (owner is not ?1), owner = ?1, lease_until = unixepoch('subsec') + ?2
    where owner = ?1 or lane in (
      select lane from tidings_lane
      where (owner is null or (owner <> ?1 and lease_until < unixepoch('subsec'))) and not paused
      order by lane limit max(?3 - (select count(*) from tidings_lane where owner = ?1), 0))";

pub(super) const LEASED: &str = "
    select lane, epoch, published, not paused and row_number() over (order by paused, lane) <= ?2 as keep,
           (select coalesce(max(seq), 0) from tidings_outbox o where o.lane = l.lane) as last
    from tidings_lane l where owner = ?1 order by lane";

pub(super) const PARKED: &str = "
    select record_key, head, error_kind, error, attempts, command, first_failure_at,
           max(next_attempt_at - unixepoch('subsec'), 0.0) as retry_in
    from tidings_parked where lane = ?";

pub(super) const HELD: &str = "
    select seq, topic, record_key, headers, payload, envelope_version, definition_key from (
      select seq, topic, record_key, headers, payload, envelope_version, definition_key,
             sum(length(headers) + coalesce(length(payload), 0)) over (order by seq) - length(headers)
             - coalesce(length(payload), 0) as before
      from (
        select o.* from tidings_held h join tidings_outbox o on o.lane = h.lane and o.seq = h.seq
        where h.lane = ?1 and h.record_key = ?2 order by h.seq limit ?3))
    where before < ?4 order by seq";

pub(super) const PARK: &str = "
    insert into tidings_parked (lane, record_key, head, error_kind, error, attempts, first_failure_at, next_attempt_at)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, unixepoch('subsec') + ?8)
    on conflict (lane, record_key) do update
    set head = excluded.head, error_kind = excluded.error_kind, error = excluded.error, attempts = excluded.attempts,
        first_failure_at = excluded.first_failure_at, next_attempt_at = excluded.next_attempt_at,
        command = case when tidings_parked.head = excluded.head then tidings_parked.command end";

/// The last row of a lane stays: the next one is numbered after it. Some rows at a time, for the file is locked meanwhile.
pub(super) const RETAIN: &str = "
    delete from tidings_outbox where lane = ?1 and seq in (
      select seq from tidings_outbox
      where lane = ?1 and seq < ?2 and seq < (select max(seq) from tidings_outbox where lane = ?1)
        and created_at < cast(unixepoch('subsec') * 1000 as integer) - ?3
      order by seq limit ?4)";

pub(super) const PAGE: &str = "
    select seq, topic, record_key, headers, payload, envelope_version from (
      select seq, topic, record_key, headers, payload, envelope_version,
             sum(length(headers) + coalesce(length(payload), 0)) over (order by seq) - length(headers)
             - coalesce(length(payload), 0) as before
      from (select * from tidings_outbox where lane = ?1 and seq >= ?2 and seq < ?3 order by seq limit ?4))
    where before < ?5 order by seq";
