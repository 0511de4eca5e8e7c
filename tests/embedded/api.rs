//! What compiles.

use std::sync::Arc;

use sqlx::SqlitePool;
use tidings::health::Health;
use tidings::testing::{MemoryTransport, MockEmitter};
use tidings::transport::{Record, Transport};
use tidings::{
    Catalog, Config, EmitRequest, Emitter, EmitterExt, Error, EventDefinition, EventId, NoopEmitter, PolicyOverrides,
    PostgresOutbox, Producer, ProducerBuilder, Receipt, Result, SqliteOutbox, Token, TokenProvider, Tx, outbox::Outbox,
};

use crate::support::checker::Numbered;
use crate::support::events::{catalog, is_published};
use crate::world::World;

/// What a service does before it serves may be done in a spawned task.
#[expect(dead_code, reason = "that it compiles is what it says")]
fn assert_spawnable(config: Config, catalog: Catalog, producer: Producer, admin: tidings::admin::Admin) {
    fn spawnable<T: Send + 'static>(_: T) {}
    spawnable(async { SqliteOutbox::open("shop.sqlite").migrate().await });
    spawnable(async { PostgresOutbox::connect("postgres://shop@localhost/shop")?.migrate().await });
    spawnable(async {
        let outbox = SqliteOutbox::open("shop.sqlite");
        outbox.migrate().await?;
        let (emitter, relay) = tidings::emitter(config, catalog, outbox, std::future::pending()).await?;
        relay.await?;
        emitter.close().await
    });
    spawnable(async move {
        producer.wake().await?;
        let _ = producer.close_within(std::time::Duration::ZERO).await;
        producer.close().await
    });
    spawnable(async move {
        admin.depth().await?;
        let actor = tidings::admin::Actor::new("ana", "why")?;
        admin.pause_lanes(None, &actor).await
    });
}

#[expect(dead_code, reason = "that it compiles is what it says")]
fn assert_api() {
    fn everywhere<T: Send + Sync + 'static>() {}
    everywhere::<Producer>();
    everywhere::<ProducerBuilder>();
    everywhere::<NoopEmitter>();
    everywhere::<MockEmitter>();
    everywhere::<Arc<dyn Emitter>>();
    everywhere::<Box<dyn Emitter>>();
    everywhere::<Arc<dyn Outbox>>();
    everywhere::<Arc<dyn Transport>>();
    everywhere::<Arc<dyn TokenProvider>>();
    everywhere::<Token>();
    everywhere::<MemoryTransport>();
    everywhere::<SqliteOutbox>();
    everywhere::<PostgresOutbox>();
    everywhere::<Catalog>();
    everywhere::<EventDefinition>();
    everywhere::<Config>();
    everywhere::<PolicyOverrides>();
    everywhere::<EmitRequest>();
    everywhere::<EventId>();
    everywhere::<Receipt>();
    everywhere::<Record>();
    everywhere::<Health>();
    everywhere::<Error>();
    fn sent<T: Send>() {}
    sent::<Tx<'_>>();
    fn emits(_: impl Emitter) {}
    fn pointers(arc: Arc<dyn Emitter>, boxed: Box<dyn Emitter>, producer: Arc<Producer>) {
        emits(arc);
        emits(boxed);
        emits(producer);
    }
}

/// A service's function, as services write it.
async fn place_order(emitter: Arc<dyn Emitter>, pool: SqlitePool, event: Numbered) -> Result<Receipt> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("create table if not exists orders (id text)").execute(&mut *tx).await.unwrap();
    let receipt = emitter.emit_in(&mut tx, event.request()).await?;
    tx.commit().await.unwrap();
    Ok(receipt)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transactional_emit_can_be_awaited_in_a_spawned_task() {
    let world = World::new().await;
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer().await);
    let event = Numbered { key: "tenant-1".into(), number: 1, id: "order-1".into() };
    let receipt = tokio::spawn(place_order(Arc::clone(&emitter), world.pool(), event.clone())).await.unwrap().unwrap();
    assert!(!is_published(&receipt));

    // The same function in a unit test of the service, with a mock and a database of its own.
    let mock: Arc<dyn Emitter> = Arc::new(MockEmitter::new(catalog()));
    let pool = SqlitePool::connect("sqlite::memory:").await.unwrap();
    tokio::spawn(place_order(mock, pool, event)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_and_a_pooled_connection_are_accepted_as_transactions() {
    let world = World::new().await;
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer().await);
    let event = |number| Numbered { key: "tenant-1".into(), number, id: format!("order-{number}") };
    let mut pooled = world.pool().acquire().await.unwrap();
    emitter.emit_in(&mut pooled, event(1).request()).await.unwrap();
    emitter.emit_in(&mut *pooled, event(2).request()).await.unwrap();
    let requests = vec![event(3).request(), event(4).request()];
    assert_eq!(emitter.emit_all_in(&mut pooled, requests).await.unwrap().len(), 2);
    assert_eq!(crate::world::logged(&world.pool()).await, 4, "without a transaction they are durable at once");
}
