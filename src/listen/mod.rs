//! What every listener needs against those who only hold it open: deadlines between requests, counts
//! per source, a close that is heard, who stands behind a load balancer, enough descriptors, what
//! to do without, and a small server for pages of health and metrics.

pub mod activity;
pub mod descriptors;
pub mod failures;
pub mod linger;
pub mod pace;
pub mod pages;
pub mod proxy_protocol;
pub mod sources;
