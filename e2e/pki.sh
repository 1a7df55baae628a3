# Sourced. Certificates and kubeconfigs of a cluster, with openssl. P: folder of certificates; HOST: https://address:port of the API server.
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$P/$1.key" 2>/dev/null; }
authority() { # NAME CN
  key "$1"
  openssl req -x509 -new -key "$P/$1.key" -days 30 -subj "/CN=$2" -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature -out "$P/$1.crt" 2>/dev/null
}
certificate() { # NAME AUTHORITY SUBJECT USAGE [SAN]
  key "$1"
  { echo "keyUsage=critical,digitalSignature,keyEncipherment"; echo "extendedKeyUsage=$4"; [ -z "${5:-}" ] || echo "subjectAltName=$5"; } > "$P/$1.ext"
  openssl req -new -key "$P/$1.key" -subj "$3" 2>/dev/null |
    openssl x509 -req -CA "$P/$2.crt" -CAkey "$P/$2.key" -CAcreateserial -days 30 -extfile "$P/$1.ext" -out "$P/$1.crt" 2>/dev/null
}
kubeconfig() { # NAME of the client's certificate, AUTHORITY of the server's; prints the path
  cat > "$P/$1.kubeconfig" <<X
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "$HOST", certificate-authority-data: $(base64 -w0 "$P/$2.crt")}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "$P/$1.crt"), client-key-data: $(base64 -w0 "$P/$1.key")}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
X
  echo "$P/$1.kubeconfig"
}
