// A machine as Talos has it at a discovery service: upstream's own client, told what to do by JSON lines.
//
// Standard input takes {"publish": {…affiliate…}, "endpoints": ["ip:port"], "others": {"id": ["ip:port"]}} and
// {"delete": true}; standard output has one line after each change: {"ip": "…", "affiliates": [...]}.
package main

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"sort"
	"syscall"
	"time"

	clientpb "github.com/siderolabs/discovery-api/api/v1alpha1/client/pb"
	"github.com/siderolabs/discovery-client/pkg/client"
	"go.uber.org/zap"
)

type affiliate struct {
	ID         string   `json:"id"`
	Addresses  []string `json:"addresses,omitempty"`
	Hostname   string   `json:"hostname,omitempty"`
	Nodename   string   `json:"nodename,omitempty"`
	Type       string   `json:"type,omitempty"`
	System     string   `json:"system,omitempty"`
	PublicKey  string   `json:"public_key,omitempty"`
	Address    string   `json:"address,omitempty"`
	Additional []string `json:"additional,omitempty"`
	Excluded   []string `json:"excluded,omitempty"`
	APIPort    uint32   `json:"api_port,omitempty"`
	Endpoints  []string `json:"endpoints,omitempty"`
}

type command struct {
	Publish   *affiliate          `json:"publish"`
	Endpoints []string            `json:"endpoints"`
	Others    map[string][]string `json:"others"`
	Delete    bool                `json:"delete"`
}

type state struct {
	IP         string      `json:"ip"`
	Affiliates []affiliate `json:"affiliates"`
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}

	return value
}

func endpoints(texts []string) []*clientpb.Endpoint {
	var found []*clientpb.Endpoint

	for _, text := range texts {
		at := must(netip.ParseAddrPort(text))
		found = append(found, &clientpb.Endpoint{Ip: at.Addr().AsSlice(), Port: uint32(at.Port())})
	}

	return found
}

func prefixes(texts []string) []*clientpb.IPPrefix {
	var found []*clientpb.IPPrefix

	for _, text := range texts {
		prefix := must(netip.ParsePrefix(text))
		found = append(found, &clientpb.IPPrefix{Ip: prefix.Addr().AsSlice(), Bits: uint32(prefix.Bits())})
	}

	return found
}

func write(given *affiliate) *clientpb.Affiliate {
	message := &clientpb.Affiliate{
		NodeId: given.ID, Hostname: given.Hostname, Nodename: given.Nodename, MachineType: given.Type,
		OperatingSystem: given.System,
	}

	for _, text := range given.Addresses {
		message.Addresses = append(message.Addresses, must(netip.ParseAddr(text)).AsSlice())
	}

	if given.PublicKey != "" {
		message.Kubespan = &clientpb.KubeSpan{
			PublicKey: given.PublicKey, Address: must(netip.ParseAddr(given.Address)).AsSlice(),
			AdditionalAddresses: prefixes(given.Additional), ExcludeAdvertisedAddresses: prefixes(given.Excluded),
		}
	}

	if given.APIPort != 0 {
		message.ControlPlane = &clientpb.ControlPlane{ApiServerPort: given.APIPort}
	}

	return message
}

func address(raw []byte) string {
	found, ok := netip.AddrFromSlice(raw)
	if !ok {
		return ""
	}

	return found.String()
}

func networks(messages []*clientpb.IPPrefix) []string {
	var found []string

	for _, message := range messages {
		found = append(found, fmt.Sprintf("%s/%d", address(message.GetIp()), message.GetBits()))
	}

	return found
}

func read(known *client.Affiliate) affiliate {
	message := known.Affiliate
	kubespan := message.GetKubespan()
	found := affiliate{
		ID: message.GetNodeId(), Hostname: message.GetHostname(), Nodename: message.GetNodename(),
		Type: message.GetMachineType(), System: message.GetOperatingSystem(), PublicKey: kubespan.GetPublicKey(),
		Address: address(kubespan.GetAddress()), Additional: networks(kubespan.GetAdditionalAddresses()),
		Excluded: networks(kubespan.GetExcludeAdvertisedAddresses()), APIPort: message.GetControlPlane().GetApiServerPort(),
	}

	for _, raw := range message.GetAddresses() {
		found.Addresses = append(found.Addresses, address(raw))
	}

	for _, endpoint := range known.Endpoints {
		ip, _ := netip.AddrFromSlice(endpoint.GetIp())
		found.Endpoints = append(found.Endpoints, netip.AddrPortFrom(ip, uint16(endpoint.GetPort())).String())
	}

	return found
}

func tell(discovery *client.Client) {
	now := state{IP: address(discovery.GetPublicIP()), Affiliates: []affiliate{}}
	for _, known := range discovery.GetAffiliates() {
		now.Affiliates = append(now.Affiliates, read(known))
	}

	sort.Slice(now.Affiliates, func(i, j int) bool { return now.Affiliates[i].ID < now.Affiliates[j].ID })
	fmt.Println(string(must(json.Marshal(now))))
}

func obey(discovery *client.Client) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var given command

		must(0, json.Unmarshal(lines.Bytes(), &given))

		if given.Delete {
			discovery.DeleteLocalAffiliate()

			continue
		}

		var others []client.Endpoint
		for id, seen := range given.Others {
			others = append(others, client.Endpoint{AffiliateID: id, Endpoints: endpoints(seen)})
		}

		own := &client.Affiliate{Affiliate: write(given.Publish), Endpoints: endpoints(given.Endpoints)}
		must(0, discovery.SetLocalData(own, others))
	}
}

func main() {
	endpoint := flag.String("endpoint", "", "host:port of the service")
	cluster := flag.String("cluster", "", "cluster id")
	id := flag.String("id", "", "affiliate id")
	ttl := flag.Duration("ttl", 30*time.Minute, "time to live")
	roots := flag.String("roots", "", "file with the certificates to trust; without it, plain HTTP/2")
	flag.Parse()

	// The secret goes by the environment: lists of processes show arguments.
	secret := must(base64.StdEncoding.DecodeString(os.Getenv("CLUSTER_SECRET")))
	options := client.Options{
		Cipher: must(aes.NewCipher(secret)), Endpoint: *endpoint, ClusterID: *cluster, AffiliateID: *id,
		ClientVersion: "v1.9.0", TTL: *ttl, Insecure: *roots == "",
	}

	if *roots != "" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(must(os.ReadFile(*roots)))
		options.TLSConfig = func() *tls.Config { return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12} }
	}

	discovery := must(client.NewClient(options))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)

	defer stop()

	news := make(chan struct{}, 1)

	go obey(discovery)

	go func() {
		for range news {
			tell(discovery)
		}
	}()

	must(0, discovery.Run(ctx, zap.NewNop(), news))
}
