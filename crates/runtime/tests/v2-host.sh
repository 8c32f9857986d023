#!/bin/bash
# Runs the tests of this crate on a host with cgroup v2 and an older kernel: Debian's cloud kernel under plain qemu,
# booted from an initramfs that holds the static test program, busybox and the overlay module. Half a minute.
#
#   crates/runtime/tests/v2-host.sh [filter]
#   RUNTIMES="runc crun /path/knarr-oci" BENCH=path crates/runtime/tests/v2-host.sh    knarr-bench --containers instead
#
# Needs Debian's packages qemu-system-x86, cpio and busybox-static, and linux-image-cloud-amd64 or apt to fetch it.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. e2e/vm/qemu.sh
work=$(mktemp -d)
limit=${LIMIT:-600}
trap clean_up EXIT
trap 'exit 1' INT TERM
find_kernel

root=$work/root
root_of_busybox "$root"
find "$modules" \( -name overlay.ko -o -name brd.ko \) -exec cp {} "$root/" \;
bring "$root" mkfs.ext4
if [ -n "${RUNTIMES:-}" ]; then
  names=
  for runtime in $RUNTIMES; do
    name=$(basename "$runtime")
    if [ "$name" = knarr-oci ]; then cp "$runtime" "$root/usr/bin/"; else bring "$root" "$runtime"; fi
    names=$names,$(cd "$root" && ls -d usr/*bin/"$name" | sed 's|^|/|')
  done
  cp "$BENCH" "$root/test"
  arguments="--containers ${names#,} --rounds ${ROUNDS:-30}"
else
  program=$(cargo test -p knarr-runtime --test main --no-run --message-format json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/main-[^"]*\)".*/\1/p' | tail -n 1)
  [ -n "$program" ] || { echo "the test program does not build" >&2; exit 1; }
  cp "$program" "$root/test"
  arguments=${1:-}
fi
strip "$root/test"
# The first root cannot be pivoted away from, so everything moves to a tmpfs.
cat > "$root/init" <<'INIT'
#!/bin/sh
echo "machine: up"
mount -t tmpfs -o size=80% none /new
for name in bin sbin lib lib64 usr test second overlay.ko brd.ko etc; do cp -a /$name /new/; done
mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run /new/root
exec switch_root /new /second
INIT
cat > "$root/second" <<'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
insmod /overlay.ko
# The tests' files are on ext4: owners of files can be mapped there on this kernel, not on a tmpfs.
insmod /brd.ko rd_nr=1 rd_size=524288
mkfs.ext4 -q /dev/ram0 && mount /dev/ram0 /tmp
ip link set lo up
RUST_BACKTRACE=0 /test $(sed 's/.*arguments=//' /proc/cmdline) && echo all-passed-on-v2
reboot -f
INIT
chmod +x "$root/init" "$root/second"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 > "$work/initramfs"
# A machine with as little as possible to find: the most robust timers there are without KVM.
power_on -M microvm,acpi=off -cpu max -smp 2 -m 4096 -initrd "$work/initramfs" \
  -append "console=ttyS0 quiet panic=-1 no_timer_check reboot=t arguments=$arguments"
grep -q all-passed-on-v2 "$work/console"
