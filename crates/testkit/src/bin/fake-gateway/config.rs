use std::path::Path;

use crate::orders::{self, Order};

/// The orders of the configuration; what is wrong with it otherwise.
pub fn read(path: &Path, safe: bool) -> Result<Vec<Order>, String> {
    if safe {
        return Ok(Vec::new());
    }
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let config: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let config = config.as_object().ok_or("not an object")?;
    match config.get("orders") {
        None => Ok(Vec::new()),
        Some(orders) => orders::parse(orders.as_str().ok_or("orders: not a text")?),
    }
}
