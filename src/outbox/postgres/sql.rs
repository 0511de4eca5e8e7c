//! The statements.

pub(crate) const APPEND: &str = "
    insert into tidings.outbox (lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version)
    select lane, tidings.next_seq(lane, $9), id, definition, topic, key, headers, payload, $8
    from unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])
         with ordinality as e(lane, id, definition, topic, key, headers, payload, n)
    order by n
    returning seq, tidings.life()";

/// As [`APPEND`], but leaves out the rows of which there is one with the same event id already, and says so. Not for every
/// outbox: PostgreSQL writes an insert that may conflict in two steps.
pub(super) const APPEND_NEW: &str = "
    with e as materialized (
      select lane, tidings.next_seq(lane, $9) as seq, id, definition, topic, key, headers, payload, n
      from (select * from unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])
            with ordinality as e(lane, id, definition, topic, key, headers, payload, n) order by n) e),
    added as (
      insert into tidings.outbox (lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version)
      select lane, seq, id, definition, topic, key, headers, payload, $8 from e order by n
      on conflict do nothing
      returning lane, seq)
    select added.seq, tidings.life() from e left join added using (lane, seq) order by n";

/// The numbers of rows by their event ids. None of one in another lane: that is another event.
pub(super) const FIND: &str = "
    select (select f.seq from tidings.find(e.id) f where f.lane = e.lane)
    from unnest($1::smallint[], $2::text[]) with ordinality as e(lane, id, n) order by n";

/// Without an index to keep them apart, there may be several rows with one event id.
pub(super) const LANES: &str = "
    select tidings.layout() as layout,
           exists (select from pg_index where indrelid = 'tidings.outbox'::regclass and indisunique and indisvalid) as knows_ids";

pub(super) const HEADS: &str = "
    select coalesce(pg_sequence_last_value(('tidings.lane_' || lane || '_seq')::regclass), 0) as last,
           least(lower(int8multirange(int8range(1, null)) - published),
                 (select min(seq) from tidings.held h where h.lane = l.lane)) as floor,
           coalesce(upper(published) - 1, 0) as highest_settled, tidings.life() as life, tidings.layout() as layout
    from tidings.lane l order by lane";

/// Of each lane the first event that waits, and the first that is held: two looks at the index, and one for each gap before
/// them. Holes come in order, and are looked into until one has a row.
pub(super) const LAG: &str = "
    with waiting as (
      select l.owner is not null and l.lease_until > clock_timestamp() as relayed,
             least(first.created_at, held.created_at) as since,
             greatest(coalesce(pg_sequence_last_value(('tidings.lane_' || l.lane || '_seq')::regclass), 0) + 1
               - lower(int8multirange(int8range(1, null)) - l.published), 0) as unsettled
      from tidings.lane l
      left join lateral (
        select o.created_at from unnest(int8multirange(int8range(1, null)) - l.published) as hole
        cross join lateral (
          select o.created_at from tidings.outbox o
          where o.lane = l.lane and o.seq >= lower(hole) and o.seq < coalesce(upper(hole), 9223372036854775807)
          order by o.seq limit 1) o
        limit 1) first on true
      left join lateral (
        select o.created_at from (select min(seq) as seq from tidings.held h where h.lane = l.lane) h
        cross join lateral (
          select o.created_at from tidings.outbox o where o.lane = l.lane and o.seq = h.seq limit 1) o) held on true)
    select extract(epoch from clock_timestamp() - min(since))::float8 as oldest_waiting,
           count(*) filter (where since is not null and not relayed) as lanes_without_relay,
           sum(unsettled)::bigint as waiting,
           (select count(*) from tidings.relay where seen_until > clock_timestamp()) as relays
    from waiting";

/// The share of this relay, $1: each has as many lanes as the others, and those that come first one more if need be. What it
/// has too many of it may not keep. A lane that is not in use any more is as good as paused.
/// An epoch is a time, so that hardly any is given out again when the database is set back.
pub(super) const LEASE: &str = "
    with me as (
      insert into tidings.relay (id, seen_until) values ($1, clock_timestamp() + $2 * interval '1 millisecond')
      on conflict (id) do update set seen_until = excluded.seen_until),
    gone as (delete from tidings.relay where id <> $1 and seen_until < clock_timestamp() - interval '1 hour'),
    share as (
      select (l.lanes / r.relays + (r.rank < l.lanes % r.relays)::int) as lanes
      from (select count(*) as lanes from tidings.lane where not paused and lane < tidings.lanes()) l,
           (select count(*) + 1 as relays, count(*) filter (where id < $1) as rank
            from tidings.relay where id <> $1 and seen_until > clock_timestamp()) r),
    mine as (
      select lane, not idle and row_number() over (order by idle, lane) <= (select lanes from share) as keep
      from (select lane, paused or lane >= tidings.lanes() as idle from tidings.lane where owner = $1) l),
    free as (
      select lane from tidings.lane
      where (owner is null or (owner <> $1 and lease_until < clock_timestamp())) and not paused and lane < tidings.lanes()
      order by lane limit greatest((select lanes from share) - (select count(*) from mine), 0)
      for update skip locked),
    leased as (
      update tidings.lane l
      set epoch = case when owner = $1 and life = tidings.life() then epoch
                  else greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) end,
          saves = case when owner = $1 and life = tidings.life() then greatest(saves, $3) else 0 end,
          owner = $1, life = tidings.life(),
          lease_until = clock_timestamp() + $2 * interval '1 millisecond'
      where owner = $1 or lane in (select lane from free)
      returning lane, epoch, published::text as published,
                coalesce(pg_sequence_last_value(('tidings.lane_' || lane || '_seq')::regclass), 0) as last,
                coalesce((select keep from mine where mine.lane = l.lane), true) as keep)
    select share.lanes as share, tidings.life() as life, leased.* from share left join leased on true";

pub(super) const RELEASE: &str = "
    with gone as (delete from tidings.relay where id = $1 and $3)
    update tidings.lane set owner = null, lease_until = null where owner = $1 and ($3 or lane = any($2))";

pub(super) const PARKED: &str = "
    select lane, record_key, head, error_kind, error, attempts, command,
           extract(epoch from first_failure_at)::float8 as first_failure_at,
           greatest(extract(epoch from next_attempt_at - clock_timestamp()), 0)::float8 as retry_in
    from tidings.parked where lane = any($1)";

pub(super) const HELD: &str = "
    select r.lane, r.seq, r.topic, r.record_key, r.headers, r.payload, r.envelope_version, r.definition_key
    from (
      select o.*, sum(length(o.headers) + coalesce(length(o.payload), 0)) over (order by o.seq) - length(o.headers)
                  - coalesce(length(o.payload), 0) as before
      from (
        select o.lane, o.seq, o.topic, o.record_key, o.headers, o.payload, o.envelope_version, o.definition_key
        from tidings.held h
        cross join lateral (select * from tidings.outbox o where o.lane = h.lane and o.seq = h.seq) o
        where h.lane = $1 and h.record_key = $2
        order by h.seq limit $3) o) r
    where r.before < $4
    order by r.seq";

/// The holes and the horizon come from one snapshot, as the proof that a number is dead asks for. The sum of bytes is of
/// the rows before: the one that reaches the limit is the last. The holes are looked into one after another, as they are given: no
/// other plan is possible, and the relay does not take a page in that has another order.
pub(super) const PAGE: &str = "
    with snapshot as materialized (select pg_snapshot_xmin(pg_current_snapshot())::text as horizon)
    select snapshot.horizon, tidings.life() as life, o.* from snapshot left join lateral (
      select r.lane, r.seq, r.topic, r.record_key, r.headers, r.payload, r.envelope_version
      from unnest($1::smallint[], $2::bigint[], $3::bigint[]) as hole(lane, low, high)
      cross join lateral (
        select o.*, sum(length(o.headers) + coalesce(length(o.payload), 0)) over (order by o.seq) - length(o.headers)
                    - coalesce(length(o.payload), 0) as before
        from (
          select o.lane, o.seq, o.topic, o.record_key, o.headers, o.payload, o.envelope_version
          from tidings.outbox o
          where o.lane = hole.lane and o.seq >= hole.low and o.seq < hole.high
          order by o.seq limit $4) o) r
      where r.before < $5
      limit $6
    ) o on true";

/// An insert into the log takes its lock before it draws a number, has a transaction id by then, and holds the locks of both
/// until its transaction has ended and can be seen. The id stays the same when the transaction is prepared; its process and
/// its virtual id do not. All locks are read at once.
pub(super) const WRITERS: &str = "
    with locks as materialized (select * from pg_locks where granted)
    select distinct x.transactionid::text
    from locks l join locks x using (virtualtransaction)
    where l.locktype = 'relation' and l.relation = 'tidings.outbox'::regclass and l.mode = 'RowExclusiveLock'
      and l.database = (select oid from pg_database where datname = current_database())
      and x.locktype = 'transactionid' and x.mode = 'ExclusiveLock'";

/// The mark is this statement's own transaction id: it is allocated after every gap that the relay has seen. What is said
/// of a lane whose lease was lost is left out altogether, and so is what was given up and arrives behind what was said later. A key
/// whose command was obeyed, in vain, is parked again at once: no statement may change a row twice.
pub(super) const SETTLE: &str = "
    with mark as materialized (select pg_current_xact_id()::text as mark),
    updated as (
      update tidings.lane l set published = l.published + d.settled::int8multirange, saves = d.save
      from unnest($1::smallint[], $2::bigint[], $3::text[], $23::bigint[], $24::bigint[]) as d(lane, epoch, settled, life, save)
      where l.lane = d.lane and l.epoch = d.epoch and l.life = d.life and d.life = tidings.life() and l.saves < d.save
      returning l.lane),
    held as (
      insert into tidings.held (lane, record_key, seq)
      select h.lane, h.record_key, h.seq from unnest($4::smallint[], $5::text[], $6::bigint[]) as h(lane, record_key, seq)
      join updated using (lane)
      on conflict do nothing),
    unheld as (
      delete from tidings.held h
      using unnest($7::smallint[], $8::text[], $9::bigint[]) as u(lane, record_key, seq), updated
      where h.lane = u.lane and h.record_key = u.record_key and h.seq = u.seq and updated.lane = u.lane),
    parked as (
      insert into tidings.parked (lane, record_key, head, error_kind, error, attempts, first_failure_at, next_attempt_at)
      select p.lane, p.record_key, p.head, p.error_kind, p.error, p.attempts, to_timestamp(p.first_failure_at),
             clock_timestamp() + p.retry_in * interval '1 second'
      from unnest($10::smallint[], $11::text[], $12::bigint[], $13::text[], $14::text[], $15::int[], $16::float8[], $17::float8[])
           as p(lane, record_key, head, error_kind, error, attempts, first_failure_at, retry_in)
      join updated using (lane)
      on conflict (lane, record_key) do update
      set head = excluded.head, error_kind = excluded.error_kind, error = excluded.error, attempts = excluded.attempts,
          first_failure_at = excluded.first_failure_at, next_attempt_at = excluded.next_attempt_at,
          command = case when parked.head = excluded.head and not exists (
              select from unnest($20::smallint[], $21::text[], $22::text[]) as f(lane, record_key, command)
              where f.lane = excluded.lane and f.record_key = excluded.record_key and f.command = parked.command)
            then parked.command end),
    obeyed as (
      update tidings.parked p set command = null
      from unnest($20::smallint[], $21::text[], $22::text[]) as f(lane, record_key, command), updated
      where p.lane = f.lane and p.record_key = f.record_key and p.command = f.command and updated.lane = f.lane
        and not exists (
          select from unnest($10::smallint[], $11::text[]) as n(lane, record_key)
          where n.lane = f.lane and n.record_key = f.record_key)),
    freed as (
      delete from tidings.parked p using unnest($18::smallint[], $19::text[]) as f(lane, record_key), updated
      where p.lane = f.lane and p.record_key = f.record_key and updated.lane = f.lane)
    select mark.mark, array(select lane from updated) as lanes from mark";
