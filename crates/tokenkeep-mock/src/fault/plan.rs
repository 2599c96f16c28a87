//! Who decides when the provider misbehaves: a plan by probability, and a script by name.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Fault;
use super::catalogue::{self, Entry};
use crate::random::{keyed, unit};

/// How many scripted faults may wait, over all grants.
pub const SCRIPT_MAX: usize = 1_000_000;

/// Draws faults by probability.
///
/// What is drawn for a request follows from the seed, the grant and the number of the grant's request, and from nothing
/// else: the same plan treats the same grant alike, in whatever order the grants come.
///
/// ```
/// use tokenkeep_mock::FaultPlan;
///
/// let json = r#"{"seed": 7, "faults": [{"probability": 0.25, "fault": {"kind": "drop_after"}}]}"#;
/// let plan: FaultPlan = serde_json::from_str(json).unwrap();
/// let drops = (0..10_000).filter(|&nth| plan.decide(0, nth).is_some()).count();
/// assert!((2_300..2_700).contains(&drops));
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "PlanForm")]
pub struct FaultPlan {
    seed: u64,
    faults: Vec<Chance>,
}

/// One fault and how often it happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chance {
    /// The part of all requests, between 0 and 1.
    pub probability: f64,
    /// What happens to them.
    pub fault: Fault,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanForm {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    faults: Vec<Chance>,
}

/// A plan whose probabilities are none: one is not between 0 and 1, or they are more than 1 together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImpossiblePlan;

impl fmt::Display for ImpossiblePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("each probability must lie between 0 and 1, and all together must not exceed 1")
    }
}

impl std::error::Error for ImpossiblePlan {}

impl TryFrom<PlanForm> for FaultPlan {
    type Error = ImpossiblePlan;

    fn try_from(form: PlanForm) -> Result<Self, Self::Error> {
        Self::new(form.seed, form.faults)
    }
}

impl FaultPlan {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// Draws from `faults` with this seed.
    pub fn new(seed: u64, faults: Vec<Chance>) -> Result<Self, ImpossiblePlan> {
        let possible = |chance: &Chance| (0.0..=1.0).contains(&chance.probability);
        let total: f64 = faults.iter().map(|chance| chance.probability).sum();
        // Ten times 0.1 is a little more than 1 in binary fractions.
        if !faults.iter().all(possible) || total > 1.0 + 1e-9 {
            return Err(ImpossiblePlan);
        }
        Ok(Self { seed, faults })
    }

    /// Reads `KIND=PROBABILITY,...`; the faults are those of [`entries`](super::entries).
    ///
    /// ```
    /// use tokenkeep_mock::FaultPlan;
    ///
    /// assert!(FaultPlan::parse(7, "drop_after=0.2,html=0.1").is_ok());
    /// assert!(FaultPlan::parse(7, "drop_aftr=0.2").is_err());
    /// ```
    ///
    /// # Errors
    /// What is wrong, and what was expected.
    pub fn parse(seed: u64, text: &str) -> Result<Self, UnknownPlan> {
        let entries = catalogue::entries();
        let faults: Result<Vec<Chance>, UnknownPlan> = text.split(',').map(|part| chance(&entries, part)).collect();
        Self::new(seed, faults?).map_err(|impossible| UnknownPlan(impossible.to_string()))
    }

    /// Every fault of [`entries`](super::entries) alike, so that this part of all requests meets one.
    ///
    /// # Errors
    /// The rate is not between 0 and 1.
    pub fn swarm(seed: u64, rate: f64) -> Result<Self, ImpossiblePlan> {
        let entries = catalogue::entries();
        let probability = rate / entries.len() as f64;
        Self::new(seed, entries.into_iter().map(|entry| Chance { probability, fault: entry.example }).collect())
    }

    /// What happens to the `nth` request of the grant with the number `key`, if anything. The same arguments always
    /// give the same fault.
    pub fn decide(&self, key: u64, nth: u64) -> Option<&Fault> {
        if self.faults.is_empty() {
            return None;
        }
        let mut draw = unit(keyed(&[self.seed, key, nth]));
        for chance in &self.faults {
            if draw < chance.probability {
                return Some(&chance.fault);
            }
            draw -= chance.probability;
        }
        None
    }
}

fn chance(entries: &[Entry], part: &str) -> Result<Chance, UnknownPlan> {
    let expected = || UnknownPlan(format!("{part:?} is no KIND=PROBABILITY, such as drop_after=0.2"));
    let (kind, probability) = part.split_once('=').ok_or_else(expected)?;
    let probability = probability.trim().parse().map_err(|_| expected())?;
    let entry = entries.iter().find(|entry| entry.kind == kind.trim()).ok_or_else(|| {
        let kinds: Vec<&str> = entries.iter().map(|entry| entry.kind).collect();
        UnknownPlan(format!("there is no fault {kind:?}: expected one of {}", kinds.join(", ")))
    })?;
    Ok(Chance { probability, fault: entry.example.clone() })
}

/// A text that is no plan; says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPlan(String);

impl fmt::Display for UnknownPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnknownPlan {}

/// Too many scripted faults wait: more than [`SCRIPT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptFull;

impl fmt::Display for ScriptFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {SCRIPT_MAX} scripted faults may wait")
    }
}

impl std::error::Error for ScriptFull {}

/// The plan, the script, and how often each kind of fault has happened.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    plan: FaultPlan,
    for_all: VecDeque<Fault>,
    /// Never iterated: its order would differ from run to run.
    by_label: HashMap<String, VecDeque<Fault>>,
    waiting: usize,
    counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    /// Faults by plan, and an empty script.
    pub fn new(plan: FaultPlan) -> Self {
        Self { plan, ..Self::default() }
    }

    /// The plan.
    pub fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    /// Replaces the plan. The script stays.
    pub fn set_plan(&mut self, plan: FaultPlan) {
        self.plan = plan;
    }

    /// Appends to the script of one grant, or to the one of all requests: each request takes one fault from its grant's
    /// script, else from the common one, else from the plan.
    pub fn script(&mut self, label: Option<&str>, faults: Vec<Fault>) -> Result<(), ScriptFull> {
        if self.waiting.saturating_add(faults.len()) > SCRIPT_MAX {
            return Err(ScriptFull);
        }
        self.waiting += faults.len();
        let queue = match label {
            Some(label) => self.by_label.entry(label.to_owned()).or_default(),
            None => &mut self.for_all,
        };
        queue.extend(faults);
        Ok(())
    }

    /// What happens to the `nth` request of a grant, given its name and number. Requests without a grant have no name
    /// and the number [`u64::MAX`].
    pub fn next(&mut self, label: Option<&str>, key: u64, nth: u64) -> Fault {
        let fault = match self.next_scripted(label) {
            Some(fault) => fault,
            None => match self.plan.decide(key, nth) {
                Some(fault) => fault.clone(),
                None => return Fault::Pass,
            },
        };
        if fault != Fault::Pass {
            *self.counts.entry(fault.kind()).or_default() += 1;
        }
        fault
    }

    fn next_scripted(&mut self, label: Option<&str>) -> Option<Fault> {
        if self.waiting == 0 {
            return None;
        }
        let of_grant = label.and_then(|label| self.next_of_grant(label));
        let fault = of_grant.or_else(|| self.for_all.pop_front())?;
        self.waiting -= 1;
        Some(fault)
    }

    fn next_of_grant(&mut self, label: &str) -> Option<Fault> {
        let queue = self.by_label.get_mut(label)?;
        let fault = queue.pop_front();
        if queue.is_empty() {
            self.by_label.remove(label);
        }
        fault
    }

    /// How often each kind of fault has happened.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// How many scripted faults wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(faults: &[(f64, Fault)]) -> Result<FaultPlan, ImpossiblePlan> {
        let chance = |(probability, fault): &(f64, Fault)| Chance { probability: *probability, fault: fault.clone() };
        FaultPlan::new(1, faults.iter().map(chance).collect())
    }

    #[test]
    fn a_script_goes_before_the_plan_and_a_grants_script_before_the_common_one() {
        let mut faults = Faults::new(plan(&[(1.0, Fault::Html)]).unwrap());
        faults.script(None, vec![Fault::DropAfter]).unwrap();
        faults.script(Some("a"), vec![Fault::Pass, Fault::Truncated]).unwrap();
        let drawn: Vec<Fault> = (0..4).map(|nth| faults.next(Some("a"), 0, nth)).collect();
        assert_eq!(drawn, [Fault::Pass, Fault::Truncated, Fault::DropAfter, Fault::Html]);
        assert_eq!(faults.waiting(), 0);
        assert_eq!(faults.counts().get("html"), Some(&1));
        assert_eq!(faults.counts().get("pass"), None);
    }

    #[test]
    fn a_script_has_a_limit() {
        let mut faults = Faults::default();
        faults.script(None, vec![Fault::Pass; SCRIPT_MAX]).unwrap();
        assert_eq!(faults.script(Some("a"), vec![Fault::Pass]), Err(ScriptFull));
    }

    #[test]
    fn impossible_probabilities_are_refused() {
        for probability in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(plan(&[(probability, Fault::Html)]), Err(ImpossiblePlan));
        }
        assert!(plan(&[(0.6, Fault::Html), (0.6, Fault::DropAfter)]).is_err());
        assert!(plan(&vec![(0.1, Fault::Html); 10]).is_ok());
    }

    #[test]
    fn a_plan_gives_each_grant_the_same_faults_in_any_order() {
        let plan = plan(&[(0.3, Fault::Html), (0.3, Fault::DropAfter)]).unwrap();
        let forwards: Vec<_> = (0..100).map(|nth| plan.decide(nth % 10, nth / 10)).collect();
        let mut backwards: Vec<_> = (0..100).rev().map(|nth| plan.decide(nth % 10, nth / 10)).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards);
        assert!(forwards.contains(&None) && forwards.contains(&Some(&Fault::DropAfter)));
    }

    #[test]
    fn a_plan_reads_kinds_and_says_what_it_does_not_know() {
        let read = FaultPlan::parse(1, "html=0.3, drop_after=0.3").unwrap();
        assert_eq!(read, plan(&[(0.3, Fault::Html), (0.3, Fault::DropAfter)]).unwrap());
        let cases = [
            ("", "drop_after=0.2"),
            ("html", "KIND"),
            ("html=x", "KIND"),
            ("htm=0.1", "html_forbidden"),
            ("html=2", "between"),
        ];
        for (text, expected) in cases {
            let error = FaultPlan::parse(1, text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_swarm_draws_every_fault_at_its_rate() {
        let plan = FaultPlan::swarm(1, 0.5).unwrap();
        let drawn: Vec<&Fault> = (0..20_000).filter_map(|nth| plan.decide(0, nth)).collect();
        assert!((9_500..10_500).contains(&drawn.len()), "{}", drawn.len());
        let kinds: std::collections::BTreeSet<&str> = drawn.iter().map(|fault| fault.kind()).collect();
        assert_eq!(kinds.len(), catalogue::entries().len());
        assert!(FaultPlan::swarm(1, 1.1).is_err() && FaultPlan::swarm(1, f64::NAN).is_err());
    }
}
