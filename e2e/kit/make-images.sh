#!/bin/bash
# make-images.sh [OUT=$KIT_WORK/images]: makes every image that the conformance tests name (and more) as OCI archives, from Debian's packages and Go modules
# needs: root, build-tools.sh tests tools (run first), go, gcc, make, debootstrap, apt access
set -euo pipefail; . "$(dirname "$0")/kit.env"
OUT=${1:-$KIT_WORK/images}; W=$KIT_WORK/imgwork; R=$KIT_WORK/rootfs; mkdir -p $OUT $W $R
for p in debootstrap gcc make bzip2; do command -v $p >/dev/null || apt-get install -y -qq $p >/dev/null; done
K=$KSRC; KT=$K/test/images; export CGO_ENABLED=0
MIRROR=$(apt-get --print-uris download busybox-static | grep -o "http[^']*" | sed 's#/pool/.*##' | head -1)   # Debian's mirror as apt is set up here
DEB=$R/debian
# busybox 1.37.0 from source, dynamic glibc like the official image: Debian's static one segfaults resolving names and its ash drops env names such as data-1
BB=$KIT_WORK/build/bb; if [ ! -x $BB/busybox ]; then mkdir -p $BB; curl -sf $MIRROR/pool/main/b/busybox/busybox_1.37.0.orig.tar.bz2 | tar -C $BB --strip-components=1 -xjf -
 (cd $BB; make defconfig; sed -i 's/^CONFIG_TC=y/# CONFIG_TC is not set/' .config; { yes '' || true; } | make oldconfig; make -j2 busybox) > $BB.log 2>&1; fi
if [ ! -e $DEB/.ready ]; then
  [ -e $DEB/usr/bin/dig ] || debootstrap --variant=minbase --include=bash,curl,bind9-dnsutils,netcat-openbsd,iproute2,iperf,perl,procps,iptables,nftables,ipset,kmod,conntrack,stress,net-tools,iputils-ping,ca-certificates bookworm $DEB $MIRROR
  cp $BB/busybox $DEB/usr/bin/busybox
  for a in $($BB/busybox --list); do  # busybox applets for whatever Debian's minimal set lacks (wget, nslookup, vi, ...)
    [ -L $DEB/usr/bin/$a ] || [ -L $DEB/usr/sbin/$a ] || [ -e $DEB/usr/bin/$a ] || [ -e $DEB/usr/sbin/$a ] || [ -e $DEB/bin/$a ] || [ -e $DEB/sbin/$a ] || ln -s busybox $DEB/usr/bin/$a; done
  rm -rf $DEB/var/cache/apt/* $DEB/usr/share/{doc,man,locale,info}/* $DEB/var/log/*.log
  touch $DEB/.ready
fi
lt() { # lt NAME DIR: deterministic layer tar of DIR
  tar -C $2 --sort=name --mtime=@0 --numeric-owner --xattrs --exclude=./.ready -cf $W/$1.tar . ; }
variant() { # variant NAME pkgs...: layer of apt packages on top of the debian rootfs
  n=$1; shift; [ -e $R/$n/.ready ] && return 0
  rm -rf $R/$n $R/$n.work; mkdir -p $R/$n $R/$n.work $R/$n.m
  mount -t overlay overlay -o lowerdir=$DEB,upperdir=$R/$n,workdir=$R/$n.work $R/$n.m
  cp /etc/resolv.conf $R/$n.m/etc/resolv.conf
  printf '#!/bin/sh\nexit 101\n' > $R/$n.m/usr/sbin/policy-rc.d; chmod +x $R/$n.m/usr/sbin/policy-rc.d
  (chroot $R/$n.m sh -c "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $* && rm -rf /var/lib/apt/lists/* /var/cache/apt/*" ) >$W/$n.log 2>&1 || { tail $W/$n.log; umount $R/$n.m; return 1; }
  umount $R/$n.m; find $R/$n -type c -delete; rm -rf $R/$n/var/lib/apt $R/$n/usr/share/{doc,man}; touch $R/$n/.ready
}
variant nginx nginx-light
variant nfs nfs-kernel-server rpcbind
# --- layers
d=$W/pause; mkdir -p $d; gcc -Os -static -DVERSION=3.10.2 -o $d/pause $K/build/pause/linux/pause.c; strip $d/pause; lt pause $d
d=$W/busybox; rm -rf $d; mkdir -p $d/{bin,usr/bin,usr/sbin,sbin,etc,tmp,root,home,var/spool/mail,var/www,dev,proc,sys,lib}
cp $BB/busybox $d/bin/busybox; mkdir -p $d/lib64; for l in libc.so.6 libm.so.6 libresolv.so.2 libnss_files.so.2 libnss_dns.so.2; do cp -L /lib/x86_64-linux-gnu/$l $d/lib/; done; cp -L /lib64/ld-linux-x86-64.so.2 $d/lib64/
for a in $($BB/busybox --list); do [ $a = busybox ] || ln -s busybox $d/bin/$a; done
ln -s ../../bin/env $d/usr/bin/env; for a in adduser addgroup; do :; done
chmod 1777 $d/tmp; chmod 700 $d/root
cat > $d/etc/passwd <<P
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
P
printf 'root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nwheel:x:10:root\nmail:x:8:\nwww-data:x:33:\noperator:x:37:\nusers:x:100:\nnogroup:x:65534:\n' > $d/etc/group
printf 'root:*:10933:0:99999:7:::\n' > $d/etc/shadow; printf 'hosts: files dns\npasswd: files\ngroup: files\n' > $d/etc/nsswitch.conf; printf 'vm\n' >$d/etc/hostname; : > $d/etc/hosts; : > $d/etc/resolv.conf
lt busybox $d
# debian base: drop dev nodes, add users of the agnhost image
for f in group:'group-defined-in-image:x:50000:user-defined-in-image' passwd:'user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh' group:'user-defined-in-image:x:1000:'; do
  grep -q "^${f#*:}" $DEB/etc/${f%%:*} || echo "${f#*:}" >> $DEB/etc/${f%%:*}; done
mkdir -p $DEB/home/user-defined-in-image; chown 1000:1000 $DEB/home/user-defined-in-image; rm -rf $DEB/dev/*; : > $DEB/etc/resolv.conf; : > $DEB/etc/hosts
lt debian $DEB
d=$W/agnhost; rm -rf $d; mkdir -p $d/uploads $d/usr/local/bin $d/var/registry
cp $KB/agnhost $d/agnhost; ln -s agnhost $d/agnhost-2; cp $KT/agnhost/porter/localhost.crt $KT/agnhost/porter/localhost.key $d/; cp $TB/coredns $d/coredns; ln -s /usr/bin/iperf $d/usr/local/bin/iperf
mkdir -p $d/usr/bin; ln -s busybox $d/usr/bin/sh  # Alpine's sh is busybox ash
chmod 644 $d/localhost.*
# /var/registry: the fake registry's `pause:testing` (manifest list -> manifest -> config, layer)
python3 - $W/pause.tar $d/var/registry <<'P'
import sys,os,gzip,json,hashlib
raw=open(sys.argv[1],'rb').read(); reg=sys.argv[2]+"/pause"; gz=gzip.compress(raw,6,mtime=0)
sha=lambda b: hashlib.sha256(b).hexdigest()
def put(kind,b):
    h=sha(b); p=f"{reg}/{kind}/sha256/{h[:2]}/{h}"; os.makedirs(p,exist_ok=True); open(p+"/data","wb").write(b); return "sha256:"+h
cfg=json.dumps({"architecture":"amd64","os":"linux","config":{"User":"65535:65535","Entrypoint":["/pause"],"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:"+sha(raw)]},"history":[{"created_by":"pause"}]}).encode()
D="application/vnd.docker."
man=json.dumps({"schemaVersion":2,"mediaType":D+"distribution.manifest.v2+json","config":{"mediaType":D+"container.image.v1+json","size":len(cfg),"digest":put("blobs",cfg)},"layers":[{"mediaType":D+"image.rootfs.diff.tar.gzip","size":len(gz),"digest":put("blobs",gz)}]}).encode()
md=put("manifests",man)
lst=json.dumps({"schemaVersion":2,"mediaType":D+"distribution.manifest.list.v2+json","manifests":[{"mediaType":D+"distribution.manifest.v2+json","size":len(man),"digest":md,"platform":{"architecture":"amd64","os":"linux"}}]}).encode()
open(reg+"/manifests/testing","w").write(put("manifests",lst)+"\n")
P
lt agnhost $d
# os-release: the ImageVolume conformance test looks for "Alpine Linux" in the kitten image
for n in kitten nautilus; do d=$W/$n; rm -rf $d; mkdir -p $d/usr/lib; printf 'NAME="Alpine Linux"\nID=alpine\nPRETTY_NAME="Alpine Linux (stand-in built on Debian)"\n' > $d/usr/lib/os-release; cp $KT/$n/html/$n.jpg $KT/$n/html/data.json $d/; chmod 644 $d/*.jpg $d/data.json; lt $n $d; done
gob() { (cd $KIT_WORK/build/k8s-$K8S_VERSION && GOFLAGS="-buildvcs=false -mod=mod" go build -ldflags "-s -w" -o "$1" $2); }
d=$W/nnp; mkdir -p $d/usr/local/bin; gob $d/usr/local/bin/nnp k8s.io/kubernetes/test/images/nonewprivs; chmod 4755 $d/usr/local/bin/nnp; chmod g+s $d/usr/local/bin/nnp; lt nnp $d
d=$W/resource-consumer; mkdir -p $d; gob $d/consumer k8s.io/kubernetes/test/images/resource-consumer; gob $d/consume-cpu k8s.io/kubernetes/test/images/resource-consumer/consume-cpu; lt resource-consumer $d
d=$W/regr; mkdir -p $d; gob $d/regression-issue-74839 k8s.io/kubernetes/test/images/regression-issue-74839; lt regr $d
d=$W/aaloader; mkdir -p $d/usr/bin; gob $d/usr/bin/loader k8s.io/kubernetes/test/images/apparmor-loader; lt aaloader $d
d=$W/etcd; mkdir -p $d/usr/local/bin $d/etc; cp $TB/etcd $d/usr/local/bin/; printf 'root:x:0:0:root:/root:/sbin/nologin\n' >$d/etc/passwd; lt etcd $d
d=$W/coredns; mkdir -p $d; cp $TB/coredns $d/coredns; lt coredns $d
d=$W/sampleapi; mkdir -p $d; cp $TB/sample-apiserver $d/sample-apiserver; lt sampleapi $d
d=$R/nginx; mkdir -p $d/usr/share/nginx/html; cat > $d/etc/nginx/nginx.conf <<'N'
user www-data;
worker_processes auto;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 1024; }
http { include /etc/nginx/mime.types; default_type application/octet-stream; access_log /dev/stdout; sendfile on; keepalive_timeout 65; include /etc/nginx/conf.d/*.conf; }
N
cat > $d/etc/nginx/conf.d/default.conf 2>/dev/null <<'N' || { mkdir -p $d/etc/nginx/conf.d; cat > $d/etc/nginx/conf.d/default.conf <<<'server { listen 80; location / { root /usr/share/nginx/html; index index.html index.htm; } }'; }
server { listen 80; location / { root /usr/share/nginx/html; index index.html index.htm; } }
N
printf '<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n<h1>Welcome to nginx!</h1>\n</body>\n</html>\n' > $d/usr/share/nginx/html/index.html
lt nginx $d
printf 'nginx:1.27' > /dev/null; d=$W/nginxnew; mkdir -p $d/etc; echo 1.27-0 > $d/etc/nginx-image-version; lt nginxnew $d
d=$R/nfs; mkdir -p $d/exports $d/usr/local/bin $d/tmp; cp $KT/volume/nfs/run_nfs.sh $d/usr/local/bin/; cp $KT/volume/nfs/index.html $d/tmp/; chmod 755 $d/usr/local/bin/run_nfs.sh; chmod 1777 $d/tmp; lt nfs $d
$KB/e2e.test --list-images 2>/dev/null | sort -u > $W/wanted.txt
python3 - > $W/spec.json <<P
import json
W="$W"; P=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]; E="registry.k8s.io/e2e-test-images/"
L={n:f"{W}/{n}.tar" for n in "pause busybox debian agnhost kitten nautilus nnp resource-consumer regr aaloader etcd coredns sampleapi nginx nginxnew nfs".split()}
ag={"Env":P,"Entrypoint":["/agnhost"],"Cmd":["pause"],"ExposedPorts":{f"{p}/tcp":{} for p in (80,8080,8081,9376,5000)}}
I=[]
def im(n,l,**c): c=dict(c); c.setdefault("Env",P); c["Labels"]={"kit.image":n}; I.append({"name":n,"layers":l,"config":c})
for v in ("3.10.2","3.10.1","3.10"): im("registry.k8s.io/pause:"+v,["pause"],Entrypoint=["/pause"],User="65535:65535",WorkingDir="/")
for v in ("1.37.0-1","1.36.1-1"): im(E+"busybox:"+v,["busybox"],Cmd=["sh"])
for v in ("2.63.0","2.55"): im(E+"agnhost:"+v,["debian","agnhost"],**ag)
ag2=dict(ag,Cmd=["test-webserver"])
im(E+"kitten:1.8",["debian","agnhost","kitten"],**ag2); im(E+"nautilus:1.8",["debian","agnhost","nautilus"],**ag2)
im(E+"nonroot:1.5",["debian"],User="1234",Cmd=["bash"])
im(E+"nonewprivs:1.4",["debian","nnp"],Cmd=["nnp"])
im(E+"ipc-utils:1.4",["debian"],Cmd=["/bin/sh"])
im(E+"perl:5.26",["debian"],Cmd=["perl5.36.0","-de0"])
for i,v in enumerate(("1.15-4","1.27-0")): im(E+"nginx:"+v,["debian","nginx"]+(["nginxnew"] if i else []),Cmd=["nginx","-g","daemon off;"],ExposedPorts={"80/tcp":{}},StopSignal="SIGQUIT")
im(E+"resource-consumer:1.14",["debian","resource-consumer"],Entrypoint=["/consumer"],ExposedPorts={"8080/tcp":{}})
im(E+"regression-issue-74839:1.4",["debian","regr"],Entrypoint=["/regression-issue-74839"])
im(E+"glibc-dns-testing:2.0.0",["debian","coredns"],Cmd=["bash"])
im(E+"apparmor-loader:1.4",["debian","aaloader"],Entrypoint=["/usr/bin/loader","-logtostderr","-v=2"],Cmd=["/profiles"])
im(E+"sample-apiserver:1.29.2",["busybox","sampleapi"],Entrypoint=["/sample-apiserver"])
im(E+"volume/nfs:1.6.0",["debian","nfs"],Entrypoint=["/usr/local/bin/run_nfs.sh"],Cmd=["/exports","/"],Volumes={"/exports":{}},ExposedPorts={"2049/tcp":{},"20048/tcp":{}})
im("registry.k8s.io/build-image/distroless-iptables:v0.9.6",["debian"],Cmd=["/bin/sh"])
im("registry.k8s.io/etcd:3.6.8-0",["etcd"],Cmd=["/usr/local/bin/etcd"],ExposedPorts={f"{p}/tcp":{} for p in (2379,2380,4001,7001)})
im("registry.k8s.io/coredns/coredns:v1.14.2",["coredns"],Entrypoint=["/coredns"],WorkingDir="/",ExposedPorts={"53/tcp":{},"53/udp":{}})
# every other tag of these repositories that this release's tests name
have={i["name"] for i in I}; newest={i["name"].rsplit(":",1)[0]:i for i in reversed(I)}; missing=[]
for ref in open(f"{W}/wanted.txt").read().split():
    if ref in have: continue
    i=newest.get(ref.rsplit(":",1)[0])
    if i: I.append(dict(i,name=ref,config=dict(i["config"],Labels={"kit.image":ref})))
    else: missing.append(ref)
open(f"{W}/missing.txt","w").write("\n".join(missing)+"\n")
print(json.dumps({"layers":L,"images":I}))
P
rm -rf $OUT/oci $OUT/archives; python3 $KIT/mkimg.py $W/spec.json $OUT > $OUT/list.txt
tar -C $OUT/oci -cf $OUT/all-images.oci.tar .
echo "$(wc -l < $OUT/list.txt) images in $OUT/all-images.oci.tar (one archive each in $OUT/archives); named by the tests and not made (CSI sidecars, Windows and the like):"; cat $W/missing.txt
