//! The links of a finished graph, level by level, in flat arrays.
//!
//! On level 0 a node is its row. An upper level numbers its nodes on its own, in row order, so that
//! its arrays are as small as it is; each node knows its row and its number on the level below.

use bytes::Bytes;

use crate::buffer::view;
use crate::error::{Error, Result};
use crate::kernel::{LINE_BYTES, prefetch};

/// Ends a list of links that is not full.
pub(crate) const NO_LINK: u32 = u32::MAX;

/// Links in one cache line.
const LINE_LINKS: usize = LINE_BYTES / 4;

/// A level of a graph that can be walked.
pub(crate) trait Layer {
    /// Number of nodes.
    fn nodes(&self) -> usize;
    /// The neighbours of a node; `out` is room for them where they do not lie ready.
    fn neighbours<'a>(&'a self, node: u32, out: &'a mut Vec<u32>) -> &'a [u32];
    /// The rows of some nodes; `out` is room for them where they are not the nodes themselves.
    fn rows<'a>(&self, nodes: &'a [u32], out: &'a mut Vec<u32>) -> &'a [u32];
    /// Asks for the cache lines of a node's links.
    fn prefetch(&self, node: u32);
}

/// Space of one list: whole cache lines, so that a list starts on one.
pub(super) fn link_stride(max_links: usize) -> usize {
    max_links.next_multiple_of(LINE_LINKS)
}

/// Links a node of a level may have: twice as many on level 0, as the paper advises.
pub(super) fn max_links(m: usize, level: usize) -> usize {
    if level == 0 { 2 * m } else { m }
}

/// Links that a node chooses for itself when it is inserted; the rest of its places are for those
/// that come after it. On level 0 half of them more than the paper has, which finds more for the same
/// time.
pub(super) fn own_links(m: usize, level: usize) -> usize {
    if level == 0 { m + m / 2 } else { m }
}

/// One level of a finished graph.
pub(super) struct Level {
    /// `[nodes, stride]` u32.
    pub(super) links: Bytes,
    /// `[nodes]` u32, empty on level 0.
    pub(super) node_rows: Bytes,
    /// `[nodes]` u32, empty on level 0.
    pub(super) node_below: Bytes,
    pub(super) stride: usize,
}

impl Level {
    /// What a walk uses, with the byte sections read as numbers.
    pub(super) fn view(&self) -> LevelView<'_> {
        LevelView {
            links: view(&self.links),
            node_rows: view(&self.node_rows),
            node_below: view(&self.node_below),
            stride: self.stride,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.links.len() + self.node_rows.len() + self.node_below.len()
    }

    /// Checks that every number points to something, so that no walk can leave the arrays.
    pub(super) fn check(&self, rows: usize, nodes_below: usize) -> Result<()> {
        let level = self.view();
        let nodes = level.nodes();
        let within = |numbers: &[u32], limit: usize| numbers.iter().all(|n| (*n as usize) < limit);
        let lists_fit = level
            .links
            .chunks_exact(level.stride)
            .all(|list| list_fits(list, nodes));
        if lists_fit && within(level.node_rows, rows) && within(level.node_below, nodes_below) {
            Ok(())
        } else {
            Err(Error::corrupt("a link points nowhere"))
        }
    }
}

/// Whether every link of a list points to one of so many nodes, and none comes after its end.
fn list_fits(list: &[u32], nodes: usize) -> bool {
    // Not ended early, so that many links are compared at once.
    let point = list.iter().fold(true, |fits, link| {
        fits & ((*link < nodes as u32) | (*link == NO_LINK))
    });
    let ends_once = list
        .iter()
        .zip(&list[1..])
        .fold(true, |fits, (link, next)| {
            fits & ((*link != NO_LINK) | (*next == NO_LINK))
        });
    point & ends_once
}

/// A level, ready to be walked.
#[derive(Clone, Copy)]
pub(super) struct LevelView<'a> {
    links: &'a [u32],
    node_rows: &'a [u32],
    node_below: &'a [u32],
    stride: usize,
}

impl LevelView<'_> {
    /// The same row on the level below.
    pub(super) fn below(&self, node: u32) -> u32 {
        self.node_below[node as usize]
    }

    #[inline]
    fn list(&self, node: u32) -> &[u32] {
        &self.links[node as usize * self.stride..][..self.stride]
    }
}

impl Layer for LevelView<'_> {
    fn nodes(&self) -> usize {
        self.links.len() / self.stride
    }

    #[inline]
    fn neighbours<'a>(&'a self, node: u32, _out: &'a mut Vec<u32>) -> &'a [u32] {
        let list = self.list(node);
        // Counted rather than searched for: without a branch, many at once.
        let links = list.iter().filter(|link| **link != NO_LINK).count();
        &list[..links]
    }

    #[inline]
    fn rows<'a>(&self, nodes: &'a [u32], out: &'a mut Vec<u32>) -> &'a [u32] {
        if self.node_rows.is_empty() {
            return nodes;
        }
        out.clear();
        out.extend(nodes.iter().map(|node| self.node_rows[*node as usize]));
        out
    }

    #[inline]
    fn prefetch(&self, node: u32) {
        prefetch(self.list(node));
    }
}
