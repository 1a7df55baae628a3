// Package server is what the programs that press on an API server share: where it is by a kubeconfig, and how much memory it takes.
package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Server is one API server, as its administrator sees it.
type Server struct {
	URL string
	TLS *tls.Config
}

// Must ends the program with the error.
func Must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Open reads a kubeconfig with one cluster and one user, whose certificates are in it.
func Open(path string) Server {
	text, err := os.ReadFile(path)
	Must(err)
	field := func(name string) string {
		found := regexp.MustCompile(name + `["']?: *["']?([^"',}\s]+)`).FindSubmatch(text)
		if found == nil {
			Must(fmt.Errorf("%s has no %s", path, name))
		}
		return string(found[1])
	}
	data := func(name string) []byte {
		bytes, err := base64.StdEncoding.DecodeString(field(name))
		Must(err)
		return bytes
	}
	pair, err := tls.X509KeyPair(data("client-certificate-data"), data("client-key-data"))
	Must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data("certificate-authority-data"))
	return Server{field("server"), &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}}
}

// Anonymous has no certificate to show.
func (s Server) Anonymous() Server {
	config := s.TLS.Clone()
	config.Certificates = nil
	return Server{s.URL, config}
}

// Address is the host and port.
func (s Server) Address() string { return strings.TrimPrefix(s.URL, "https://") }

// Memory sums up processes, named by their ids with commas between them: their share of pages (PSS) and the anonymous part of it, in MiB.
// One that has ended counts nothing.
func Memory(pids string) (total, anonymous int) {
	for _, pid := range strings.Split(pids, ",") {
		text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(text), "\n") {
			words := strings.Fields(line)
			if len(words) < 2 {
				continue
			}
			kib, _ := strconv.Atoi(words[1])
			switch words[0] {
			case "Pss:":
				total += kib
			case "Pss_Anon:":
				anonymous += kib
			}
		}
	}
	return total >> 10, anonymous >> 10
}
