// Command verifier is a small relying party: it hands out nonces and verifies the evidence that
// machines answer with. It uses package attest and the standard library, and nothing of the agent.
//
// It serves plain HTTP on loopback. In front of it belongs what any service of yours has: TLS, and
// a limit to how often somebody may ask.
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/attest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "verifier:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:8850", "address to serve on")
	audience := flag.String("audience", "", "this verifier's own URL; evidence for another one is refused")
	amdRoots := flag.String("amd-roots", "", "PEM file with AMD roots to trust in place of the real ones, for the simulator")
	vtpmRoots := flag.String("vtpm-roots", "", "PEM file with roots of AK certificates to trust in place of the real ones")
	idKey := flag.String("id-key-digest", "", "launch identity to trust in place of Azure's, in hexadecimal")
	flag.Parse()
	if *audience == "" {
		return errors.New("-audience is needed, such as https://verifier.example")
	}
	s := &server{
		audience: *audience, anchors: attest.DefaultTrustAnchors(), policy: attest.DefaultPolicy(),
		now: time.Now, log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if err := s.trust(*amdRoots, *vtpmRoots, *idKey); err != nil {
		return err
	}
	var err error
	if s.nonces, err = newNonces(nonceLife, maxUsed, s.now); err != nil {
		return err
	}
	return serve(*listen, s.handler())
}

// trust replaces the trust anchors by those that the flags name.
func (s *server) trust(amdRoots, vtpmRoots, idKey string) error {
	if amdRoots != "" {
		text, err := os.ReadFile(amdRoots)
		if err != nil {
			return err
		}
		if s.anchors.AMD, err = attest.ParseAMDRoots(text); err != nil {
			return err
		}
	}
	if vtpmRoots != "" {
		text, err := os.ReadFile(vtpmRoots)
		if err != nil {
			return err
		}
		if s.anchors.VTPM, err = attest.ParseVTPMRoots(text); err != nil {
			return err
		}
	}
	if idKey != "" {
		digest, err := hex.DecodeString(idKey)
		if err != nil {
			return err
		}
		s.policy.Launch.IDKeyDigests = [][]byte{digest}
	}
	return nil
}

func serve(listen string, handler http.Handler) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	srv := &http.Server{
		Addr: listen, Handler: handler,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return srv.Shutdown(shutdown)
}
