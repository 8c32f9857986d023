#!/bin/sh
# The whole `knarr up` in a virtual machine of Debian's kernel with nothing but cgroup v2, under plain qemu without
# KVM: limits, OOM kills, exec and pids limits on v2, an upgrade of the daemon under running pods, and a reboot of the
# machine over the same disk. By hand, five to ten minutes:
#
#   e2e/vm/vm.sh                    runs target/debug/knarr (or $KNARR_BIN)
#   KNARR_OLD=path e2e/vm/vm.sh     starts with that build and upgrades to the other while pods run
#
# Needs qemu-system-x86_64 ($QEMU, with arguments), mkfs.ext4, busybox-static, kubectl ($KUBECTL), cargo, and apt for
# the kernel's package ($KERNEL_DIR, where it is unpacked, instead). What runs inside stands in guest.sh.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
limit=${LIMIT:-600}
new=${KNARR_BIN:-$repository/target/debug/knarr}
old=${KNARR_OLD:-$new}
kubectl=${KUBECTL:-$(command -v kubectl || ls /usr/lib/google-cloud-sdk/bin/kubectl.1.* 2>/dev/null | sort -V | tail -n 1)}
qemu=${QEMU:-qemu-system-x86_64}
for file in "$new" "$old" "$kubectl" /usr/bin/busybox; do
  test -x "$file" || { echo "$file is missing" >&2; exit 1; }
done

dir=$(mktemp -d)
pid=
clean() {
  # Only the machine that was started here, by its number.
  test -z "$pid" || kill "$pid" 2>/dev/null || true
  rm -rf "$dir"
}
trap clean EXIT INT TERM

kernel=${KERNEL_DIR:-}
if test -z "$kernel"; then
  package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
  (cd "$dir" && apt-get download "$package" >/dev/null 2>&1 && dpkg-deb -x ./*.deb kernel)
  kernel=$dir/kernel
fi
version=$(basename "$(ls -d "$kernel"/lib/modules/*)")

# The disk: a root file system of busybox, with all modules of the kernel; NVMe and ext4 are built into that kernel,
# so no initramfs is needed.
root=$dir/root
mkdir -p "$root"/bin "$root"/sbin "$root"/usr/bin "$root"/lib "$root"/proc "$root"/sys "$root"/dev "$root"/tmp \
  "$root"/run "$root"/etc "$root"/root "$root"/var/lib
cp /usr/bin/busybox "$root/bin/busybox"
for name in $(/usr/bin/busybox --list); do ln -sf /bin/busybox "$root/bin/$name"; done
ln -sf /bin/busybox "$root/sbin/modprobe"
ln -sf /bin/busybox "$root/usr/bin/busybox"
cp -r "$kernel/lib/modules" "$root/lib/"
(cd "$root" && busybox depmod -b "$root" "$version")
for binary in old new; do
  eval "cp \"\$$binary\" \"$root/bin/knarr-$binary\""
  strip "$root/bin/knarr-$binary"
done
# Another build by its bytes at least; an appended section is not loaded.
test "$old" != "$new" || printf 'another build' >> "$root/bin/knarr-new"
cp "$kubectl" "$root/bin/kubectl"
cp "$here/guest.sh" "$root/guest.sh"
# The suite's image, as the suite writes it.
KNARR_BUSYBOX_TO="$root/busybox.tar" sh -c "cd '$repository' && cargo run --quiet -p knarr-e2e --example busybox"
truncate -s 2G "$dir/disk"
chmod +x "$root/guest.sh"
mkfs.ext4 -q -d "$root" "$dir/disk"

# One boot: ended by itself, or by its number when it takes too long.
boot() {
  # shellcheck disable=SC2086 # $QEMU may carry arguments
  $qemu -m 3072 -smp 2 -accel tcg,thread=multi -cpu max -nographic -no-reboot -net none \
    -kernel "$kernel/boot/vmlinuz-$version" \
    -drive "file=$dir/disk,format=raw,if=none,id=disk,cache=writethrough" -device nvme,drive=disk,serial=disk \
    -append "console=ttyS0 quiet panic=-1 no_timer_check root=/dev/nvme0n1 rw init=/guest.sh phase=$1" < /dev/null > "$dir/output-$1" 2>&1 &
  pid=$!
  waited=0
  while kill -0 "$pid" 2>/dev/null; do
    if test "$waited" -ge "$limit"; then
      kill "$pid"
      echo "phase $1 took more than $limit s" >&2
      break
    fi
    sleep 1
    waited=$((waited + 1))
  done
  wait "$pid" 2>/dev/null || true
  pid=
  cat "$dir/output-$1"
  grep -q "phase $1: passed" "$dir/output-$1"
}

boot 1
boot 2
echo "cgroup v2: all passed, upgrade and reboot included"
