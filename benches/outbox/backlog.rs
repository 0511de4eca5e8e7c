//! A process that only relays: what memory it takes with a long backlog, and what it does when there is nothing to do.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::child::{self, Process};
use crate::support::machine;
use crate::support::report::Report;
use crate::world::{Services, World};

/// The relay looks ever more seldom when nothing comes, and long before this time as seldom as it ever does. A session that
/// does nothing hands in what it did before after ten seconds.
const COME_TO_REST: Duration = Duration::from_secs(11);

pub(crate) async fn run(services: &Services, plan: &Plan, report: &mut Report) {
    let (world, rows) = (World::open(services).await, plan.backlog_rows);
    world.fill(0..rows).await;
    let mut connection = PgConnection::connect_with(&world.options).await.expect("the database answers");
    let mut relay = Process::relay(&world);
    relay.ready().await;
    let (id, start) = (relay.id(), Instant::now());
    world.settled(&mut connection, rows).await;
    report.add("relay_drain_per_second", rows as f64 / start.elapsed().as_secs_f64());
    report.add("relay_cpu_us_per_event", machine::cpu_time(&id).as_secs_f64() * 1e6 / rows as f64);
    report.add("relay_rss_mb", child::peak_memory_mb(&id));
    connection.close().await.expect("the database answers");

    // From another database: this one's transactions are the relay's then.
    let mut connection = services.connect().await;
    if services.owns_database {
        // Its workers' transactions count too.
        set(&mut connection, "alter system set autovacuum = off").await;
        let workers = "select count(*) from pg_stat_activity where backend_type = 'autovacuum worker'";
        while sqlx::query_scalar::<_, i64>(workers).fetch_one(&mut connection).await.expect("it answers") > 0 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    sleep(COME_TO_REST).await;
    let (before, cpu_before, start) =
        (transactions(&mut connection, &world.name).await, machine::cpu_time(&id), Instant::now());
    sleep(plan.idle_time).await;
    let (cpu, time) = (machine::cpu_time(&id) - cpu_before, start.elapsed().as_secs_f64());
    let queries = transactions(&mut connection, &world.name).await - before;
    report.add("idle_queries_per_minute", queries * 60.0 / time);
    report.add("idle_cpu_percent", cpu.as_secs_f64() * 100.0 / time);
    if services.owns_database {
        set(&mut connection, "alter system reset autovacuum").await;
    }
    relay.end().await;
    world.verify(rows).await;
    world.close().await;
    for figures in ["relay_", "idle_"] {
        report.print(figures);
    }
}

async fn set(connection: &mut PgConnection, setting: &str) {
    for statement in [setting, "select pg_reload_conf()"] {
        sqlx::query(statement).execute(&mut *connection).await.expect("the services' own user may do everything");
    }
}

/// How many transactions a database has had. Each query of an idle relay is one.
async fn transactions(connection: &mut PgConnection, database: &str) -> f64 {
    let select = "select (xact_commit + xact_rollback)::float8 from pg_stat_database where datname = $1";
    sqlx::query_scalar(select).bind(database).fetch_one(connection).await.expect("the database answers")
}
