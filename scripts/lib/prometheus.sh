# Prometheus and promtool, on the PATH of whoever sources this in the root of the repository.
# Debian's, unpacked and not installed: the package would start a server.
prometheus_tools=$PWD/target/prometheus
export PATH=$PATH:$prometheus_tools/usr/bin
if ! command -v promtool prometheus >/dev/null; then
  echo "fetching Prometheus" >&2
  mkdir -p "$prometheus_tools"
  (cd "$prometheus_tools" && { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; } &&
    dpkg -x prometheus_*.deb .) >&2
fi
