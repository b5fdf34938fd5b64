//! What every listener needs against those who only hold it open: deadlines between requests, counts
//! per source, and a small server for pages of health and metrics.

pub mod pace;
pub mod pages;
pub mod sources;
