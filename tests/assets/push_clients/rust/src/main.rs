//! Pushes as a Rust program does, by the crate `prometheus`, which knows basic authentication only.
//!
//! Arguments: URL TOKEN INSTANCE STEP..., where a step is push=N or add=N: N more orders, then PUT or POST.

use std::collections::HashMap;
use std::error::Error;

use prometheus::{
    BasicAuthentication, Gauge, Histogram, HistogramOpts, IntCounterVec, Opts, Registry,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, instance, steps @ ..] = &args[..] else {
        return Err("arguments: URL TOKEN INSTANCE STEP...".into());
    };
    let orders = IntCounterVec::new(Opts::new("rust_orders_total", "Orders."), &["country"])?;
    let queue = Gauge::new("rust_queue_length", "Orders that wait.")?;
    let seconds = HistogramOpts::new("rust_order_seconds", "How long orders take.");
    let seconds = Histogram::with_opts(seconds.buckets(vec![0.1, 1.0]))?;
    let registry = Registry::new();
    registry.register(Box::new(orders.clone()))?;
    registry.register(Box::new(queue.clone()))?;
    registry.register(Box::new(seconds.clone()))?;
    for step in steps {
        let (verb, number) = step.split_once('=').ok_or("a step is push=N or add=N")?;
        let number: u32 = number.parse()?;
        for _ in 0..number {
            orders.with_label_values(&["fr"]).inc();
            queue.set(f64::from(number));
            seconds.observe(0.5);
        }
        let key = [
            ("client", "rust"),
            ("path", "orders"),
            ("instance", instance),
        ];
        let key: HashMap<String, String> = key.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let authentication = (!token.is_empty()).then(|| BasicAuthentication {
            username: "anybody".to_owned(),
            password: token.clone(),
        });
        let families = registry.gather();
        match verb {
            "push" => prometheus::push_metrics("nightly", key, url, families, authentication)?,
            "add" => prometheus::push_add_metrics("nightly", key, url, families, authentication)?,
            _ => return Err(format!("{step} is not a step").into()),
        }
    }
    Ok(())
}
