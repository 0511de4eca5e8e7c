# shellcheck shell=bash
# Sourced by scripts that install what they miss. They define `say`, and `fail`, which ends them.

# need COMMAND PACKAGE: has apt-get install what is missing, or says what would.
need() {
  command -v "$1" >/dev/null || install_package "$1" "$2"
}

# install_package WHAT PACKAGE
install_package() {
  local sudo=() installed=yes
  ((EUID == 0)) || sudo=(sudo -n)
  if ! command -v apt-get >/dev/null || ! "${sudo[@]}" true 2>/dev/null; then
    fail "$1 is missing: install it, for example with: sudo apt-get install $2"
  fi
  say "installing $2"
  # Debian's PostgreSQL would create and start a cluster of its own, which nobody asked for.
  local no_cluster=/etc/postgresql-common/createcluster.d/tidings.conf
  "${sudo[@]}" mkdir -p "${no_cluster%/*}"
  echo 'create_main_cluster = false' | "${sudo[@]}" tee "$no_cluster" >/dev/null
  { "${sudo[@]}" apt-get update -q &&
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$2"; } >&2 ||
    installed=
  "${sudo[@]}" rm "$no_cluster"
  [[ $installed ]] || fail "$2 can't be installed"
  hash -r
}
