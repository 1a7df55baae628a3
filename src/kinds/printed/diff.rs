//! Unified diffs as go-difflib writes them, which compares as Python's `difflib` does: the longest run of equal lines
//! is kept, then what is before and after it is compared in the same way.

use std::collections::HashMap;

/// Lines of context around a change.
const CONTEXT: usize = 3;
/// From this many lines on, lines that are found in more than one in a hundred places begin no match.
const MANY: usize = 200;

/// Equal lines: where in the old text, where in the new one, how many.
#[derive(Clone, Copy)]
struct Block {
    old: usize,
    new: usize,
    size: usize,
}

/// One step: lines of the old text `.0..1` that become lines `.2..3` of the new one.
#[derive(Clone, Copy)]
struct Step {
    equal: bool,
    old: (usize, usize),
    new: (usize, usize),
}

/// The changes between two texts, without the names of files.
pub(super) fn unified(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut out = String::new();
    for group in groups(&steps(&a, &b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let head = format!("@@ -{} +{} @@\n", range(first.old.0, last.old.1), range(first.new.0, last.new.1));
        out.push_str(&head);
        let mut put = |sign: char, lines: &[&str]| {
            for line in lines {
                out.push(sign);
                out.push_str(line);
                out.push('\n');
            }
        };
        for step in &group {
            if step.equal {
                put(' ', &a[step.old.0..step.old.1]);
            } else {
                put('-', &a[step.old.0..step.old.1]);
                put('+', &b[step.new.0..step.new.1]);
            }
        }
    }
    out
}

fn range(start: usize, end: usize) -> String {
    match end - start {
        1 => (start + 1).to_string(),
        0 => format!("{start},0"),
        length => format!("{},{length}", start + 1),
    }
}

fn steps(a: &[&str], b: &[&str]) -> Vec<Step> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (j, line) in b.iter().enumerate() {
        places.entry(line).or_default().push(j);
    }
    if b.len() >= MANY {
        places.retain(|_, found| found.len() <= b.len() / 100 + 1);
    }
    let mut blocks = Vec::new();
    // What is still to compare; a stack keeps the order and bounds the depth.
    let mut open = vec![(0, a.len(), 0, b.len())];
    while let Some((a_low, a_high, b_low, b_high)) = open.pop() {
        let found = longest(a, b, &places, (a_low, a_high, b_low, b_high));
        if found.size > 0 {
            blocks.push(found);
            if a_low < found.old && b_low < found.new {
                open.push((a_low, found.old, b_low, found.new));
            }
            let (a_next, b_next) = (found.old + found.size, found.new + found.size);
            if a_next < a_high && b_next < b_high {
                open.push((a_next, a_high, b_next, b_high));
            }
        }
    }
    blocks.sort_by_key(|block| (block.old, block.new));
    let mut merged: Vec<Block> = Vec::new();
    for block in blocks {
        match merged.last_mut() {
            Some(last) if last.old + last.size == block.old && last.new + last.size == block.new => {
                last.size += block.size;
            }
            _ => merged.push(block),
        }
    }
    merged.push(Block { old: a.len(), new: b.len(), size: 0 });
    let mut steps = Vec::new();
    let (mut i, mut j) = (0, 0);
    for block in merged {
        if i < block.old || j < block.new {
            steps.push(Step { equal: false, old: (i, block.old), new: (j, block.new) });
        }
        (i, j) = (block.old + block.size, block.new + block.size);
        if block.size > 0 {
            steps.push(Step { equal: true, old: (block.old, i), new: (block.new, j) });
        }
    }
    steps
}

/// The longest run of equal lines, of several the first in the old text, then in the new one.
fn longest(
    a: &[&str],
    b: &[&str],
    places: &HashMap<&str, Vec<usize>>,
    (a_low, a_high, b_low, b_high): (usize, usize, usize, usize),
) -> Block {
    let mut best = Block { old: a_low, new: b_low, size: 0 };
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (i, line) in a.iter().enumerate().take(a_high).skip(a_low) {
        let mut next = HashMap::new();
        for &j in places.get(line).into_iter().flatten().filter(|j| (b_low..b_high).contains(*j)) {
            let size = j.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or_default() + 1;
            next.insert(j, size);
            if size > best.size {
                best = Block { old: i + 1 - size, new: j + 1 - size, size };
            }
        }
        lengths = next;
    }
    while best.old > a_low && best.new > b_low && a[best.old - 1] == b[best.new - 1] {
        best = Block { old: best.old - 1, new: best.new - 1, size: best.size + 1 };
    }
    while best.old + best.size < a_high
        && best.new + best.size < b_high
        && a[best.old + best.size] == b[best.new + best.size]
    {
        best.size += 1;
    }
    best
}

/// Changes that are near each other, each group with its context.
fn groups(steps: &[Step]) -> Vec<Vec<Step>> {
    let mut steps = steps.to_vec();
    let head = |step: &mut Step| {
        if step.equal {
            step.old.0 = step.old.0.max(step.old.1.saturating_sub(CONTEXT));
            step.new.0 = step.new.0.max(step.new.1.saturating_sub(CONTEXT));
        }
    };
    let tail = |step: &mut Step| {
        if step.equal {
            step.old.1 = step.old.1.min(step.old.0 + CONTEXT);
            step.new.1 = step.new.1.min(step.new.0 + CONTEXT);
        }
    };
    steps.first_mut().into_iter().for_each(head);
    steps.last_mut().into_iter().for_each(tail);
    let (mut groups, mut group) = (Vec::new(), Vec::new());
    for mut step in steps {
        if step.equal && step.old.1 - step.old.0 > 2 * CONTEXT {
            let mut end = step;
            tail(&mut end);
            group.push(end);
            groups.push(std::mem::take(&mut group));
            head(&mut step);
        }
        group.push(step);
    }
    groups.push(group);
    groups.retain(|group| group.iter().any(|step| !step.equal));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_with_three_lines_around() {
        let check = |old: &[&str], new: &[&str], want: &str| {
            let text = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            assert_eq!(unified(&text(old), &text(new)), want);
        };
        check(&["a", "b"], &["a", "b"], "");
        check(&["a", "b"], &["a", "c"], "@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
        check(&["a"], &["a", "c"], "@@ -1 +1,2 @@\n a\n+c\n");
        check(
            &["1", "2", "3", "4", "x", "5", "6", "7", "8"],
            &["1", "2", "3", "4", "5", "6", "7", "8"],
            "@@ -2,7 +2,6 @@\n 2\n 3\n 4\n-x\n 5\n 6\n 7\n",
        );
        let many: Vec<String> = (0..20).map(|i| i.to_string()).collect();
        let mut old: Vec<&str> = many.iter().map(String::as_str).collect();
        let new = old.clone();
        (old[2], old[15]) = ("x", "y");
        check(
            &old,
            &new,
            "@@ -1,6 +1,6 @@\n 0\n 1\n-x\n+2\n 3\n 4\n 5\n@@ -13,7 +13,7 @@\n 12\n 13\n 14\n-y\n+15\n 16\n 17\n 18\n",
        );
    }
}
