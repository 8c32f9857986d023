# Sourced by the scripts that run something on Debian's kernel with cgroup v2 in a virtual machine, under plain qemu
# (no KVM): where the kernel is, what goes into the machine's root, and one boot of it that is bounded in time.
# Needs bash. `work` is a directory of the caller's that goes with it; `limit` is how many seconds a boot may take.

# The kernel's image and modules as Debian's package has them: from the installed package, else from $KERNEL_DIR where
# it is unpacked, else fetched by apt. Sets `image` and `modules`.
find_kernel() {
  local at=${KERNEL_DIR:-} package
  if [ -z "$at" ] && ls /boot/vmlinuz-*-cloud-* >/dev/null 2>&1; then
    at=/
  elif [ -z "$at" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
    (cd "$work" && apt-get download "$package" >/dev/null 2>&1 && dpkg-deb -x ./*.deb kernel)
    at=$work/kernel
  fi
  image=$(ls "${at%/}"/boot/vmlinuz-*-cloud-* | sort -V | tail -n 1)
  modules=${at%/}/lib/modules/${image##*/vmlinuz-}
}

# Copies programs of this machine, with the libraries they are linked to, to the same places under `root`.
bring() {
  local root=$1 program path
  shift
  for program in "$@"; do
    path=$(command -v "$program") || { echo "$program is missing" >&2; return 1; }
    # A Debian file system: /bin is /usr/bin.
    path=/usr/${path#/usr/}
    install -D "$(readlink -f "$path")" "$root$path"
    for path in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*'); do
      [ -e "$root$path" ] || install -D "$(readlink -f "$path")" "$root$path"
    done
  done
}

# Folders of a root file system with busybox's programs, where there are no better ones.
root_of_busybox() {
  local root=$1 name
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{proc,sys,dev,tmp,run,etc,root,new,srv,var/lib}
  for name in bin sbin lib lib64; do ln -sfn "usr/$name" "$root/$name"; done
  cp "$(command -v busybox)" "$root/usr/bin/busybox"
  for name in $(busybox --list); do [ -e "$root/usr/bin/$name" ] || ln -s busybox "$root/usr/bin/$name"; done
}

# Runs qemu with the arguments until it ends, its console in `$work/console` and on standard output. The guest has to
# say "machine: up" first: emulated timers are late on a loaded machine and some boots end in a panic of the kernel
# before any program of ours ran; such a boot is repeated. Root's machine goes before what else runs here, because
# the guest's clock goes on while it waits.
power_on() {
  local try waited last
  for try in 1 2 3; do
    : > "$work/console"
    # shellcheck disable=SC2086 # $QEMU may carry arguments
    nice -n "-$(($(id -u) == 0 ? 5 : 0))" ${QEMU:-qemu-system-x86_64} -nographic -no-reboot -net none -accel tcg,thread=multi \
      -kernel "$image" "$@" < /dev/null > "$work/console" 2>&1 &
    qemu=$!
    tail -n +1 --pid="$qemu" -s 0.2 -f "$work/console" &
    last=$!
    waited=0
    while kill -0 "$qemu" 2>/dev/null; do
      if [ "$waited" -ge "$limit" ]; then
        echo "the machine is switched off after $limit s" >&2
        kill "$qemu"
      elif [ "$waited" -ge 60 ] && ! grep -q "machine: up" "$work/console"; then
        kill "$qemu"
      fi
      sleep 1
      waited=$((waited + 1))
    done
    wait "$qemu" 2>/dev/null || true
    wait "$last" 2>/dev/null || true
    qemu=
    grep -q "machine: up" "$work/console" && return 0
    echo "the kernel did not come up (try $try)" >&2
  done
  return 1
}

# Ends what was started here, by its number, and removes what was written.
clean_up() {
  [ -z "${qemu:-}" ] || kill "$qemu" 2>/dev/null || true
  rm -rf "$work"
}
