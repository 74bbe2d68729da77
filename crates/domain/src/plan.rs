//! The pure rollout planner.
