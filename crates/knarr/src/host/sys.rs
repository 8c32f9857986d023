//! What only system calls can say to the kernel about this process.
#![allow(unsafe_code)]

/// Keeps the heap in small pages. The allocator reserves its first gigabyte at once and asks for huge pages in it
/// (madvise(2), MADV_HUGEPAGE), which makes an idle control plane 20 MB larger than what it uses. What the heap
/// takes beyond that gigabyte may have huge pages: there they are filled, and fast.
///
/// Where it cannot be done (no /proc), nothing else is lost.
pub fn heap_in_small_pages() {
    let probe = Box::new(0_u64);
    let address = std::ptr::from_ref(&*probe).addr();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    if let Some((start, end)) = mapping_of(&maps, address) {
        // SAFETY: the range is a mapping of this process, and the advice does not change what is in it.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_NOHUGEPAGE) };
    }
}

/// The mapping that contains an address, out of proc_pid_maps(5).
fn mapping_of(maps: &str, address: usize) -> Option<(usize, usize)> {
    let mut ranges = maps.lines().filter_map(|line| {
        let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    });
    ranges.find(|(start, end)| (*start..*end).contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_of_an_address_is_found() {
        let maps = "00200000-00ff8000 r--p 00000000 fe:00 53 /knarr\n5f91000-5f95000 rw-p 0 00:00 0 \n";
        assert_eq!(mapping_of(maps, 0x5f9_1000), Some((0x5f9_1000, 0x5f9_5000)));
        assert_eq!(mapping_of(maps, 0x5f9_5000), None);
    }

    #[test]
    fn the_heap_is_advised_against_huge_pages() {
        heap_in_small_pages();
        let address = std::ptr::from_ref(&*Box::new(1_u8)).addr();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (start, _) = mapping_of(&smaps, address).unwrap();
        let of_heap = smaps.split_once(&format!("{start:08x}-")).unwrap().1;
        let flags = of_heap.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.contains(" nh"), "{flags}");
    }
}
