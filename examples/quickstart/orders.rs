//! The input.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Result;

/// A line of `orders.ndjson`, and the payload of an event.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OrderChange {
    pub(crate) order: String,
    pub(crate) customer: String,
    name: String,
    /// Counts the changes of a customer's orders, from 1 on.
    pub(crate) number: u32,
    pub(crate) status: String,
    pub(crate) changed_at: DateTime<Utc>,
    placed_at: DateTime<Utc>,
    pub(crate) total_cents: i64,
    currency: String,
    items: Vec<Item>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    sku: String,
    quantity: u32,
    price_cents: i64,
}

pub(crate) fn read() -> Result<Vec<OrderChange>> {
    let lines = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/orders.ndjson"))?;
    Ok(lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}
