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
  published   text    not null default '{}'
) strict;

with recursive number(n) as (select 0 union all select n + 1 from number where n < 31)
insert into tidings_lane (lane) select n from number;
