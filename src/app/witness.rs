//! What feeds bring is in the audit, too, beside what administrators decide.

use std::sync::Arc;

use crate::authority::Audit;
use crate::authority::Entry;
use crate::feed::Record;
use crate::feed::Witness;
use crate::revocation::Engine;
use crate::revocation::Registry;

/// Writes everything that feeds bring to the audit.
pub(super) fn on_record(audit: Audit, registry: Arc<Registry>, engine: Arc<Engine>) -> Witness {
    Arc::new(move |record| {
        let (audit, registry, engine) = (audit.clone(), Arc::clone(&registry), Arc::clone(&engine));
        Box::pin(async move {
            let line = tokio::task::spawn_blocking(move || line(record, &registry, &engine)).await;
            let Ok(line) = line else { return };
            // What cannot be written is logged and kept, and written once the disk takes it.
            let _ = audit.append(line).await;
        })
    })
}

/// The audit line of what a feed brought. Blocks.
fn line(record: Record, registry: &Registry, engine: &Engine) -> Entry {
    match record {
        Record::Event { event, generation, timeline } => {
            let mut target = event.target.clone();
            let (principal, serial) = registry.behind(&target);
            engine.name_as_kept(&mut target);
            let line = Entry {
                action: event.action.name().into(),
                outcome: "applied".into(),
                actor: event.actor.clone().unwrap_or_default().into(),
                id: Some(event.id.clone()),
                principal,
                serial,
                reason: event.reason.clone(),
                at: Some(timeline.at),
                issued_before: event.issued_before,
                expires_at: event.expires_at,
                force: event.force.then_some(true),
                unsigned: event.unsigned.then_some(true),
                generation: Some(generation),
                sessions_ended: Some(timeline.sessions_ended),
                timeline: Some(timeline),
                ..Entry::default()
            };
            line.aimed_at(&target)
        }
        Record::List { feed, issuer, what, at, sessions_ended } => Entry {
            action: "list".into(),
            outcome: "applied".into(),
            actor: issuer.into(),
            reason: Some(format!("{feed}: {what}")),
            at: Some(at),
            sessions_ended: Some(sessions_ended),
            ..Entry::default()
        },
    }
}
