-- PostgreSQL 14 or later (multiranges, SQL-standard function bodies).

-- The log. Rows are only ever added. A ring of eight tables by day, so that old rows can be dropped a whole table at a
-- time, without DDL at run time: creating or dropping a partition would queue every insert behind it.
create table tidings.outbox (
  lane             smallint    not null,
  seq              bigint      not null,
  slot             smallint    not null default (extract(epoch from clock_timestamp())::bigint / 86400 % 8)::smallint,
  created_at       timestamptz not null default clock_timestamp(),
  event_id         text        not null,
  definition_key   text        not null,
  topic            text        not null,
  record_key       text        not null,
  headers          bytea       not null,
  payload          bytea,      -- null is a tombstone
  envelope_version smallint    not null
) partition by list (slot);

create index on tidings.outbox (lane, seq);

-- How far each lane has been relayed, and by whom. The set of published numbers is small: its holes are what counts. A
-- paused lane is released by its owner, and taken by nobody.
create table tidings.lane (
  lane        smallint primary key,
  owner       text,
  epoch       bigint not null default 0,
  lease_until timestamptz,
  paused      boolean not null default false,
  published   int8multirange not null default '{}'
) with (fillfactor = 50);

-- The relays that live: they share the lanes out among themselves.
create table tidings.relay (
  id         text primary key,
  seen_until timestamptz not null
);

-- Keys whose first event can't be delivered for what it is. `head` is not above the number of that event.
create table tidings.parked (
  lane             smallint    not null,
  record_key       text        not null,
  head             bigint      not null,
  error_kind       text        not null,
  error            text        not null,
  attempts         int         not null,
  first_failure_at timestamptz not null,
  next_attempt_at  timestamptz not null,
  command          text, -- resume, skip or dead_letter: what somebody wants done about the head
  primary key (lane, record_key)
);

-- The events of parked keys. `published` has them too: as holes of it they would make every write of it dearer.
create table tidings.held (
  lane       smallint not null,
  record_key text     not null,
  seq        bigint   not null,
  primary key (lane, record_key, seq)
);
create index on tidings.held (lane, seq);

-- What operators have changed: who, when, why, and what. Written with the change, in its transaction.
create table tidings.audit (
  id     bigint generated always as identity primary key,
  at     timestamptz not null default clock_timestamp(),
  who    text  not null check (who <> ''),
  why    text  not null check (why <> ''),
  action text  not null, -- resume, skip, dead_letter, pause_lanes, resume_lanes, redrive, replay, replay_page or replay_end
  detail jsonb not null
);
-- A page of a replay is appended once, whoever asks for it.
create unique index on tidings.audit (
  (detail ->> 'replay'), coalesce(detail ->> 'lane', ''), coalesce(detail ->> 'after', '')
) where detail ->> 'replay' is not null;

do $$ begin
  for i in 0..7 loop
    execute format('create table tidings.outbox_%s partition of tidings.outbox for values in (%s)', i, i);
  end loop;
  -- CACHE must stay 1: a session that hoards numbers would have drawn them before its transaction had an id.
  for i in 0..31 loop
    execute format('create sequence tidings.lane_%s_seq cache 1', i);
    insert into tidings.lane (lane) values (i);
  end loop;
end $$;

-- Inlined into the INSERT. The CASE makes the number depend on the transaction's id, so that the id is always the older
-- of the two. That a number is proven dead once every older transaction has ended rests on it.
create function tidings.next_seq(lane smallint) returns bigint language sql volatile
return nextval(case when pg_current_xact_id() is not null then ('tidings.lane_' || lane || '_seq')::regclass end);

-- Empties the tables of the ring whose events are all older than `keep` and delivered, and says how many. No writer waits
-- for it: writers use the table of the day. A transaction that wrote to an older one and is still open holds its lock, and
-- the table is tried again some other time.
create function tidings.drop_delivered(keep interval) returns int language plpgsql as $$
declare
  today   bigint := extract(epoch from clock_timestamp())::bigint / 86400;
  dropped int := 0;
  leaf    text;
  check_leaf text;
  waits   boolean;
begin
  perform set_config('lock_timeout', '100ms', true);
  for age in 2..7 loop
    -- The youngest event of the table may be from the end of its day.
    continue when clock_timestamp() - to_timestamp((today - age + 1) * 86400) < keep;
    leaf := 'tidings.outbox_' || (today - age) % 8;
    check_leaf := 'select not exists (select from only ' || leaf || ') or exists (
      select from tidings.lane l
      cross join lateral (select max(seq) as seq from only ' || leaf || ' o where o.lane = l.lane) last
      where last.seq >= least(lower(int8multirange(int8range(1, null)) - l.published),
                              (select min(seq) from tidings.held h where h.lane = l.lane)))';
    begin
      execute check_leaf into waits;
      continue when waits;
      execute 'lock table only ' || leaf || ' in access exclusive mode';
      execute check_leaf into waits;
      continue when waits;
      execute 'truncate only ' || leaf;
      dropped := dropped + 1;
    exception when lock_not_available then
      null;
    end;
  end loop;
  return dropped;
end $$;
