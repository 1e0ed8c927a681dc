package simulator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/maa"
	"github.com/keyagent/keyagent/simulator/resource"
)

// Bounds of one connection. A delay fault may take longer than any of them but the last.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 5 * time.Minute
)

// startServices makes the services and serves them. All ports are taken before the first service is
// made, since the services name each other's addresses.
func (p *Platform) startServices(ctx context.Context, cfg Config, a *authorities) error {
	listeners, err := p.listen(ctx)
	if err != nil {
		return err
	}
	maaServer, err := p.newMAA(cfg, a)
	if err != nil {
		return err
	}
	if p.entra, err = p.newEntra(cfg, a); err != nil {
		return err
	}
	p.info.TokenIssuer = p.entra.Issuer()
	p.info.AssertionIssuer = p.entra.FederationIssuer()
	if p.imds, err = p.newIMDS(cfg, a, maaServer); err != nil {
		return err
	}
	p.resource = p.newResource()
	return p.serveAll(listeners, a, maaServer)
}

// serveAll serves the services. Entra's certificate is also good for its names in the public cloud,
// for clients that dial them to here.
func (p *Platform) serveAll(listeners map[string]net.Listener, a *authorities, maaServer *maa.Server) error {
	certificate, errPlain := a.servers.Certificate(p.clock.Now())
	entraCertificate, errEntra := a.servers.Certificate(p.clock.Now(), append(entra.LoginNames(), entra.MTLSNames()...)...)
	if err := errors.Join(errPlain, errEntra); err != nil {
		return err
	}
	p.serve(listeners["imds"], p.imds, nil)
	p.serve(listeners["maa"], maaServer, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}})
	p.serve(listeners["mtlsauth"], p.entra.MTLS(), entra.TLSConfig(entraCertificate))
	p.serve(listeners["login"], p.entra.Login(), entra.LoginTLSConfig(entraCertificate))
	p.serve(listeners["resource"], p.resource, resource.TLSConfig(certificate))
	p.serve(resource.KeyVaultListener(listeners["key_vault"], certificate), p.resource.KeyVault(), nil)
	p.serve(listeners["control"], p.control(), nil)
	return nil
}

// listen takes a port for every service and fills in the addresses.
func (p *Platform) listen(ctx context.Context) (map[string]net.Listener, error) {
	listeners := map[string]net.Listener{}
	for _, service := range []struct {
		name, scheme string
		url          *string
	}{
		{"imds", "http", &p.info.IMDS},
		{"maa", "https", &p.info.MAA},
		{"mtlsauth", "https", &p.info.MTLSAuth},
		{"login", "https", &p.info.Login},
		{"resource", "https", &p.info.Resource},
		{"key_vault", "https", &p.info.KeyVault},
		{"control", "http", &p.info.Control},
	} {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", service.name, err)
		}
		p.closers = append(p.closers, func() error { return ignoreClosed(l.Close()) })
		listeners[service.name] = l
		*service.url = service.scheme + "://" + l.Addr().String()
	}
	return listeners, nil
}

// serve serves h on l until Close. A nil tlsConfig means plain HTTP.
func (p *Platform) serve(l net.Listener, h http.Handler, tlsConfig *tls.Config) {
	server := &http.Server{
		Handler:           h,
		TLSConfig:         tlsConfig.Clone(), // net/http writes to it
		ConnContext:       endpoint.ConnContext,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		// Many tests give up a handshake: that is not worth a line in the log.
		ErrorLog: slog.NewLogLogger(p.logger.Handler(), slog.LevelDebug),
	}
	p.closers = append(p.closers, func() error { return ignoreClosed(server.Close()) })
	p.serving.Go(func() {
		var err error
		if tlsConfig == nil {
			err = server.Serve(l)
		} else {
			err = server.ServeTLS(l, "", "")
		}
		if !errors.Is(err, http.ErrServerClosed) {
			p.logger.Error("a simulated service stopped", "address", l.Addr().String(), "error", err)
		}
	})
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *Platform) newMAA(cfg Config, a *authorities) (*maa.Server, error) {
	collateral, err := a.collateral()
	if err != nil {
		return nil, err
	}
	return maa.New(maa.Config{
		BaseURL: p.info.MAA,
		Anchors: attest.TrustAnchors{
			Intel:             a.intelRoots(),
			AMD:               []attest.AMDRoot{{Product: a.processor.Product.Line, ARK: a.processor.ARK, ASK: a.processor.ASK}},
			VTPM:              []*x509.Certificate{a.vtpm.Root},
			VTPMIntermediates: []*x509.Certificate{a.vtpm.Intermediate},
		},
		IDKeyDigests: [][]byte{a.launch.IDKeyDigest[:]},
		MRTDs:        [][]byte{a.mrtd[:]},
		Collateral:   collateral,
		Keys:         cfg.Keys,
		Now:          p.clock.Now,
		Recorder:     p.recorder(),
	})
}

func (p *Platform) newIMDS(cfg Config, a *authorities, m *maa.Server) (*imds.Server, error) {
	var identities []imds.Identity
	for _, id := range p.info.Identities {
		identities = append(identities, imds.Identity{
			ClientID: id.ClientID, ObjectID: id.ObjectID, ResourceID: id.ResourceID, SystemAssigned: id.Kind == SystemAssigned,
		})
	}
	return imds.New(imds.Config{
		TenantID:            p.info.TenantID,
		VMID:                p.info.VMID,
		Location:            "westeurope",
		Identities:          identities,
		Token:               p.entra.ManagedIdentityToken,
		Reject:              func(thumbprint string) { p.entra.Reject(thumbprint, entra.CodeAttestation) },
		AttestationEndpoint: p.info.MAA,
		AttestationKeys:     m.Keys(),
		MTLSEndpoint:        p.info.MTLSAuth,
		Issuer:              a.identity,
		BindingLife:         cfg.BindingLife,
		TokenLife:           cfg.BindingTokenLife,
		Processor:           a.processor,
		TDX:                 a.tdx,
		Now:                 p.clock.Now,
		Recorder:            p.recorder(),
	})
}

func (p *Platform) newEntra(cfg Config, a *authorities) (*entra.Server, error) {
	var principals []entra.Principal
	for _, id := range p.info.Identities {
		principals = append(principals, entra.Principal{ClientID: id.ClientID, ObjectID: id.ObjectID, ResourceID: id.ResourceID})
	}
	return entra.New(entra.Config{
		MTLSURL:      p.info.MTLSAuth,
		LoginURL:     p.info.Login,
		TenantID:     p.info.TenantID,
		Principals:   principals,
		Applications: p.newApplications(),
		Resources:    append([]string{vaultURI, managementURI, graphURI, "https://storage.azure.com"}, cfg.Resources...),
		BearerOnly:   []string{managementURI},
		Issuer:       a.identity.Certificate,
		TokenLife:    cfg.AccessTokenLife,
		Keys:         cfg.Keys,
		Now:          p.clock.Now,
		Recorder:     p.recorder(),
	})
}

// newApplications registers the applications: the first trusts the VM's user-assigned identity, the
// others wait for a certificate.
func (p *Platform) newApplications() []entra.Application {
	var applications []entra.Application
	for _, a := range p.info.Applications {
		applications = append(applications, entra.Application{
			ClientID: a.ClientID, ObjectID: a.ObjectID, Name: a.Name,
			ApplicationPolicy: entra.ApplicationPolicy{MTLSEnabled: true},
		})
	}
	applications[0].Federated = []entra.FederatedCredential{{
		Issuer: p.info.Login + "/" + p.info.TenantID + "/v2.0", Subject: p.info.Identities[1].ObjectID, Audience: entra.TokenExchange,
	}}
	return applications
}

func (p *Platform) newResource() *resource.Server {
	return resource.New(resource.Config{
		Audience: vaultURI,
		Graph:    graphURI,
		Issuer:   p.entra.Issuer(),
		Keys:     p.entra.Keys(),
		Now:      p.clock.Now,
		Recorder: p.recorder(),
	})
}
