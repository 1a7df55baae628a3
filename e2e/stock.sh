# Sourced, after kit.env and pki.sh. The kit's etcd and kube-apiserver, started by the script's own `go_ NAME COMMAND...`. DIR: where their data are; P: folder of certificates.
stock_keys() { # SAN of the server's certificate, SUBJECT of the administrator's
  mkdir -p "$P"
  authority ca kubernetes
  certificate apiserver ca /CN=kube-apiserver serverAuth "$1"
  certificate admin ca "$2" clientAuth
  openssl genrsa -out "$P/sa.key" 2048 2>/dev/null; openssl rsa -in "$P/sa.key" -pubout -out "$P/sa.pub" 2>/dev/null
}
stock_etcd() { # PORT of clients, the next one is that of members; more flags
  local client=http://127.0.0.1:$1 peer=http://127.0.0.1:$(($1 + 1)); shift
  mkdir -p "$DIR/etcd"; chmod 700 "$DIR/etcd"
  go_ etcd "$TB/etcd" --name a --data-dir "$DIR/etcd" --listen-client-urls "$client" --advertise-client-urls "$client" --listen-peer-urls "$peer" \
    --initial-advertise-peer-urls "$peer" --initial-cluster "a=$peer" --log-level warn "$@"
}
stock_apiserver() { # ADDRESS PORT PORT-OF-ETCD RANGE-OF-SERVICES; more flags
  local address=$1 port=$2 etcd=$3 range=$4; shift 4
  # The modes, unless a file says them.
  local modes=(--authorization-mode=Node,RBAC); case "$*" in *--authorization-config*) modes=();; esac
  go_ kube-apiserver "$KB/kube-apiserver" --bind-address="$address" --secure-port="$port" --etcd-servers="http://127.0.0.1:$etcd" --service-cluster-ip-range="$range" \
    "${modes[@]}" --client-ca-file="$P/ca.crt" --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" "$@"
}
