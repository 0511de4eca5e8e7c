-- The log. Rows are only ever added. A writer takes the number behind the highest of its lane, and writers take turns:
-- so the numbers have no gaps, and their order is that of the commits.
create table tidings_outbox (
  lane             integer not null,
  seq              integer not null,
  created_at       integer not null default (cast(unixepoch('subsec') * 1000 as integer)),
  event_id         text    not null,
  definition_key   text    not null,
  topic            text    not null,
  record_key       text    not null,
  headers          blob    not null,
  payload          blob,   -- null is a tombstone
  envelope_version integer not null,
  primary key (lane, seq)
) strict;

-- How far each lane has been relayed, and by whom.
create table tidings_lane (
  lane        integer primary key,
  owner       text,
  epoch       integer not null default 0,
  lease_until real,
  paused      integer not null default 0,
  published   text    not null default '{}'
) strict;

-- The relays that live: they share the lanes out among themselves.
create table tidings_relay (
  id         text primary key,
  seen_until real not null
) strict;

-- Keys whose first event can't be delivered for what it is. `head` is not above the number of that event.
create table tidings_parked (
  lane             integer not null,
  record_key       text    not null,
  head             integer not null,
  error_kind       text    not null,
  error            text    not null,
  attempts         integer not null,
  first_failure_at real    not null, -- seconds since 1970
  next_attempt_at  real    not null,
  command          text, -- resume, skip or dead_letter: what somebody wants done about the head
  primary key (lane, record_key)
) strict;

-- The events of parked keys. `published` has them too: as holes of it they would make every write of it dearer.
create table tidings_held (
  lane       integer not null,
  record_key text    not null,
  seq        integer not null,
  primary key (lane, record_key, seq)
) strict;
create index tidings_held_seq on tidings_held (lane, seq);

-- What operators have changed: who, when, why, and what. Written with the change, in its transaction.
create table tidings_audit (
  id     integer primary key autoincrement,
  at     integer not null default (cast(unixepoch('subsec') * 1000 as integer)),
  who    text    not null check (who <> ''),
  why    text    not null check (why <> ''),
  action text    not null, -- resume, skip, dead_letter, pause_lanes, resume_lanes, redrive, replay, replay_page or replay_end
  detail text    not null  -- JSON
) strict;
-- A page of a replay is appended once, whoever asks for it.
create unique index tidings_audit_replay on tidings_audit (
  detail ->> 'replay', coalesce(detail ->> 'lane', ''), coalesce(detail ->> 'after', '')
) where detail ->> 'replay' is not null;

with recursive number(n) as (select 0 union all select n + 1 from number where n < 31)
insert into tidings_lane (lane) select n from number;
