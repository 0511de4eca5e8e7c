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

-- How far each lane has been relayed, and by whom, in which life of the database. The set of published numbers is small: its
-- holes are what counts. A paused lane is released by its owner, and taken by nobody; so is one that is not in use any more.
create table tidings.lane (
  lane        smallint primary key check (lane between 0 and 1023),
  owner       text,
  epoch       bigint not null default 0,
  life        bigint,
  saves       bigint not null default 0, -- the last write of its relay under this epoch: one that arrives late is an older one
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
  -- resume, skip, dead_letter, pause_lanes, resume_lanes, change_lanes, redrive, replay, replay_page or replay_end
  action text  not null,
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

-- How many lanes are in use, as `changes * 10000 + lanes`: a number that was changed there and back is not the old one. It
-- is a function since the catalog is transactional, and yet of no snapshot: whoever waited for the lock that a change takes
-- sees the new one, in a transaction of REPEATABLE READ that began before, too. It must not be IMMUTABLE: then plans that
-- have its value would not be thrown away.
create function tidings.layout() returns bigint language sql stable parallel safe return 32::bigint;

create function tidings.lanes() returns int language sql stable parallel safe return (tidings.layout() % 10000)::int;

create function tidings.refuse_layout(layout bigint) returns regclass language plpgsql as $$
begin
  raise 'the number of lanes was changed: the events are laid out for % lanes (%), and there are % (%)',
    layout % 10000, layout, tidings.lanes(), tidings.layout() using errcode = 'TD001';
end $$;

-- Inlined into the INSERT. The inner CASE makes the number depend on the transaction's id, so that the id is always the
-- older of the two. That a number is proven dead once every older transaction has ended rests on it. The outer one compares
-- after the INSERT has its lock on the log: the number of lanes stays as it is until the transaction has ended.
create function tidings.next_seq(lane smallint, layout bigint) returns bigint language sql volatile
return nextval(case when layout is distinct from tidings.layout() then tidings.refuse_layout(layout)
               else case when pg_current_xact_id() is not null then ('tidings.lane_' || lane || '_seq')::regclass end end);

-- Which life of the database this is. After a failover, a restore or a crash numbers and transaction ids may be given out again,
-- so a lease of another life is void. A crash of one of its processes ends a life as well, though the postmaster goes on: the
-- statistics, which are lost then, say since when they are counted. (Before PostgreSQL 15 to read them takes too long.)
create function tidings.life() returns bigint language sql stable
return (extract(epoch from greatest(pg_postmaster_start_time(), case
  when current_setting('server_version_num')::int >= 150000 then pg_stat_get_bgwriter_stat_reset_time() end)) * 1000000)::bigint;

-- Empties the tables of the ring whose events are all older than `keep` and delivered, and says how many. No writer waits
-- for it: writers use the table of the day. A transaction that wrote to an older one and is still open holds its lock, and
-- the table is tried again some other time.
-- It runs as its owner: relays may not truncate what they have not delivered.
create function tidings.drop_delivered(keep interval) returns int language plpgsql
security definer set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  today   bigint := extract(epoch from clock_timestamp())::bigint / 86400;
  dropped int := 0;
  leaf    text;
  check_leaf text;
  waits   boolean;
begin
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

-- A lane of which something that was there this long ago is not delivered; of no time at all, whatever clocks say, which may be set
-- back.
create function tidings.undelivered(waited interval) returns smallint language sql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
  select l.lane from tidings.lane l
  where exists (select from tidings.parked p where p.lane = l.lane)
     or exists (select from tidings.held h where h.lane = l.lane)
     or exists (
       select from unnest(int8multirange(int8range(1, null)) - l.published) as hole
       cross join lateral (
         select from tidings.outbox o
         where o.lane = l.lane and o.seq >= lower(hole) and o.seq < coalesce(upper(hole), 9223372036854775807)
           and (waited = interval '0' or o.created_at <= clock_timestamp() - waited)
         limit 1) o)
  limit 1
$$;

-- Changes the number of lanes, and says what it was: docs/operating.md. All or nothing, and only when nothing is on its way:
-- an event that goes to another lane than the one before it of the same key could overtake it. Writers wait meanwhile, for
-- 1.2 seconds at most. Lanes that are too many stay, unused: their rows are history, and their numbers go on if they are
-- used again.
create function tidings.change_lanes(lanes int) returns int language plpgsql
security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' set jit = off as $$
declare
  before  bigint;
  give_up timestamptz;
  waits   smallint;
  n       int;
begin
  if lanes is null or lanes not between 1 and 1024 then
    raise 'there can be 1 to 1,024 lanes, and not %', coalesce(lanes::text, 'null') using errcode = 'invalid_parameter_value';
  elsif current_setting('transaction_isolation') <> 'read committed' then
    raise 'nothing was changed: only a READ COMMITTED transaction can see lanes drain' using errcode = 'invalid_transaction_state';
  end if;
  -- What has waited for long will not be gone in a moment, and no writer is to wait for it.
  waits := tidings.undelivered(interval '1 second');
  if waits is null then
    -- What takes time comes first, as long as nobody waits.
    for n in select i from generate_series(0, lanes - 1) i where not exists (select from tidings.lane l where l.lane = i) loop
      execute format('create sequence tidings.lane_%s_seq cache 1', n);
      if to_regrole('tidings_writer') is not null then
        execute format('grant usage on sequence tidings.lane_%s_seq to tidings_writer', n);
      end if;
      if to_regrole('tidings_relay') is not null then
        execute format('grant select on sequence tidings.lane_%s_seq to tidings_relay', n);
      end if;
      insert into tidings.lane (lane) values (n);
    end loop;
    lock table only tidings.outbox in share row exclusive mode;
    before := tidings.layout();
    give_up := clock_timestamp() + interval '1 second';
    loop
      waits := tidings.undelivered(interval '0');
      exit when waits is null or clock_timestamp() > give_up;
      perform pg_sleep(0.01);
    end loop;
  end if;
  if waits is not null then
    raise 'nothing was changed: lane % has events that are not delivered', waits
      using errcode = 'object_in_use', hint = 'see docs/operating.md; then call it again';
  end if;
  -- No transaction that has drawn a number is open: numbers that do not show are dead.
  update tidings.lane l set published = l.published + int8multirange(int8range(1, s.last + 1))
  from (select lane, pg_sequence_last_value(('tidings.lane_' || lane || '_seq')::regclass) as last from tidings.lane) s
  where s.lane = l.lane and s.last is not null and not l.published @> int8range(1, s.last + 1);
  execute format('create or replace function tidings.layout() returns bigint language sql stable parallel safe return %s::bigint',
                 (before / 10000 + 1) * 10000 + lanes);
  insert into tidings.audit (who, why, action, detail)
  values (session_user, 'tidings.change_lanes', 'change_lanes',
          jsonb_build_object('from', before % 10000, 'to', lanes));
  return before % 10000;
exception when lock_not_available then
  raise 'nothing was changed: a transaction that has appended events is open' using errcode = 'lock_not_available',
    hint = 'call it again when it has ended; pg_locks says whose it is';
end $$;

-- What services in any language may call: docs/outbox-sql.md.

-- The lane of a record key: murmur2 of its UTF-8 bytes, as Kafka's clients have it.
create function tidings.lane_of(record_key text, lanes int default tidings.lanes()) returns smallint
language plpgsql immutable strict parallel safe as $$
declare
  data bytea           := convert_to(record_key, 'UTF8');
  size int             := length(data);
  m    constant bigint := 1540483477; -- 0x5bd1e995: below 2^31, so that no product overflows
  u32  constant bigint := 4294967295;
  hash bigint          := 2538058380 # size; -- 0x9747b28c
  k    bigint;
  at   int             := 0;
begin
  while at + 4 <= size loop
    k := get_byte(data, at) + (get_byte(data, at + 1) << 8) + (get_byte(data, at + 2) << 16)
         + (get_byte(data, at + 3)::bigint << 24);
    k := (k * m) & u32;
    k := ((k # (k >> 24)) * m) & u32;
    hash := ((hash * m) & u32) # k;
    at := at + 4;
  end loop;
  if at < size then
    k := 0;
    for i in reverse size - 1 .. at loop
      k := (k << 8) + get_byte(data, i);
    end loop;
    hash := ((hash # k) * m) & u32;
  end if;
  hash := hash # (hash >> 13);
  hash := (hash * m) & u32;
  hash := hash # (hash >> 15);
  return (hash & 2147483647) % lanes;
end $$;

-- Headers as they are stored: of each name and each value its length, four bytes, big endian, and its UTF-8 bytes. Null
-- if one of them is.
create function tidings.encode_headers(headers text[]) returns bytea language sql stable parallel safe
return (
  select case when bool_and(part is not null) is not false then
    coalesce(string_agg(int4send(length(bytes)) || bytes, ''::bytea order by n), ''::bytea) end
  from (select part, convert_to(part, 'UTF8') as bytes, n from unnest(headers) with ordinality as h(part, n)) parts
);

-- The row that has this event id: lane and number of the last one.
create function tidings.find(event_id text, out lane smallint, out seq bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select o.lane, o.seq from tidings.outbox o where o.event_id = find.event_id order by o.created_at desc, o.seq desc limit 1
$$;

-- Adds an event in the caller's transaction. It runs as its owner, so that who may execute it needs no other right. The
-- topic is checked without a regular expression: that took longer than all else.
create function tidings.append(
  topic text, record_key text, headers text[], payload bytea, event_id text, definition_key text default '',
  out lane smallint, out seq bigint
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  encoded bytea;
begin
  if topic is null or topic in ('.', '..') or length(topic) not between 1 and 249
     or translate(topic, '._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ', '') <> '' then
    raise 'the topic % is not a name that Kafka takes', coalesce(quote_literal(topic), 'null')
      using errcode = 'invalid_parameter_value';
  elsif record_key is null or octet_length(convert_to(record_key, 'UTF8')) not between 1 and 2048 then
    raise 'the record key must have 1 to 2,048 bytes' using errcode = 'invalid_parameter_value';
  elsif event_id is null or octet_length(convert_to(event_id, 'UTF8')) not between 1 and 256 then
    raise 'the event id must have 1 to 256 bytes' using errcode = 'invalid_parameter_value';
  elsif cardinality(headers) % 2 <> 0 then
    raise 'the headers must be pairs of a name and a value, and there are % texts', cardinality(headers)
      using errcode = 'invalid_parameter_value';
  end if;
  encoded := tidings.encode_headers(headers);
  if encoded is null then
    raise 'a header has a null name or value' using errcode = 'invalid_parameter_value';
  end if;
  insert into tidings.outbox as o (lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version)
  -- Reckoned in the INSERT, which has its lock by then: the number of lanes can't change in between.
  select l.lane, tidings.next_seq(l.lane, tidings.layout()), append.event_id, coalesce(append.definition_key, ''), append.topic,
         append.record_key, encoded, append.payload, 1
  from (select tidings.lane_of(append.record_key, tidings.lanes()) as lane offset 0) l
  on conflict do nothing
  returning o.lane, o.seq into append.lane, append.seq;
  if not found then -- Only a unique index on the event id, which is for each team to create, leads here.
    lane := tidings.lane_of(append.record_key, tidings.lanes());
    select f.seq into seq from tidings.find(append.event_id) f where f.lane = append.lane;
    if not found then
      raise 'another event of the id % is in the outbox', quote_literal(event_id) using errcode = 'unique_violation';
    end if;
  end if;
end $$;

revoke all on function tidings.append, tidings.find, tidings.drop_delivered, tidings.undelivered, tidings.change_lanes from public;

-- Roles to grant to the users of services and relays. They belong to the cluster, so another database may have made them,
-- or make them at this moment; and who migrates may not be allowed to.
do $$
declare
  name   text;
  number smallint;
begin
  foreach name in array array['tidings_writer', 'tidings_relay'] loop
    begin
      if to_regrole(name) is null then
        execute format('create role %I nologin', name);
      end if;
    exception
      when duplicate_object or unique_violation then null;
      when insufficient_privilege then
        raise notice 'the role % is missing and could not be created; create it and run this block again', name;
    end;
  end loop;

  -- Appends, and asks how far the lanes and their relays are: it can read no event, and change none.
  if to_regrole('tidings_writer') is not null then
    grant usage on schema tidings to tidings_writer;
    grant select on tidings.migration to tidings_writer;
    grant select (lane, seq, created_at), insert (
      lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version
    ) on tidings.outbox to tidings_writer;
    grant select (lane, published, owner, lease_until) on tidings.lane to tidings_writer;
    grant select (seen_until) on tidings.relay to tidings_writer;
    grant select (lane, seq) on tidings.held to tidings_writer;
    grant execute on function tidings.append, tidings.find to tidings_writer;
  end if;

  -- Reads the log, and writes down how far it is. It can append nothing.
  if to_regrole('tidings_relay') is not null then
    grant usage on schema tidings to tidings_relay;
    grant select on tidings.migration, tidings.outbox, tidings.lane to tidings_relay;
    grant update (owner, epoch, life, saves, lease_until, published) on tidings.lane to tidings_relay;
    grant select, insert, update, delete on tidings.relay, tidings.parked, tidings.held to tidings_relay;
    grant execute on function tidings.drop_delivered to tidings_relay;
  end if;

  for number in select lane from tidings.lane loop
    if to_regrole('tidings_writer') is not null then
      execute format('grant usage on sequence tidings.lane_%s_seq to tidings_writer', number);
    end if;
    if to_regrole('tidings_relay') is not null then
      execute format('grant select on sequence tidings.lane_%s_seq to tidings_relay', number);
    end if;
  end loop;
end $$;
