package main

// The cluster's DNS server: A and SRV records of Services, by the Kubernetes DNS specification 1.1.
//
// Served: <service>.<namespace>.svc.<domain>, endpoints of headless Services by host name, and named ports
// (_port._protocol.<service>...). Not served: PTR, ExternalName, names of pods. There is no upstream: every other
// name is NXDOMAIN, because nothing outside can be reached from the lab.

import (
	"context"
	"encoding/binary"
	"flag"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	recordTTL = 5 // seconds; tests recreate Services
	udpLimit  = 1232
)

// backend is one address behind a name, with the ports that it serves there.
type backend struct {
	host string // label of an endpoint of a headless Service; empty for a ClusterIP
	ip   [4]byte
	port []port
}

type port struct {
	name, protocol string
	number         uint16
}

// source answers what is behind a Service; ok is false when there is no such Service.
type source func(namespace, service string) (backends []backend, ok bool)

func serveDNS() {
	flags := flag.NewFlagSet("dns", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig with the right to watch Services and EndpointSlices")
	listen := flags.String("listen", "127.0.0.1:53", "address, UDP and TCP")
	domain := flags.String("domain", "cluster.local", "cluster domain")
	must(flags.Parse(os.Args[1:]))

	packets, err := net.ListenPacket("udp", *listen)
	must(err)
	streams, err := net.Listen("tcp", *listen)
	must(err)
	server := server{domain: strings.ToLower(strings.Trim(*domain, ".")) + ".", source: watch(*kubeconfig)}
	log.Printf("serving %s on %s", server.domain, *listen)
	go server.tcp(streams)
	server.udp(packets)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func watch(kubeconfig string) source {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	must(err)
	client, err := kubernetes.NewForConfig(config)
	must(err)
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services().Lister()
	slices := factory.Discovery().V1().EndpointSlices().Lister()
	factory.Start(context.Background().Done())
	factory.WaitForCacheSync(context.Background().Done())
	return func(namespace, name string) ([]backend, bool) {
		service, err := services.Services(namespace).Get(name)
		if err != nil {
			return nil, false
		}
		if service.Spec.ClusterIP != corev1.ClusterIPNone {
			return clusterIPs(service), true
		}
		found, err := slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}))
		if err != nil {
			return nil, true
		}
		return endpoints(found, service.Spec.PublishNotReadyAddresses), true
	}
}

func clusterIPs(service *corev1.Service) (backends []backend) {
	var ports []port
	for _, p := range service.Spec.Ports {
		ports = append(ports, port{p.Name, strings.ToLower(string(p.Protocol)), uint16(p.Port)})
	}
	for _, address := range service.Spec.ClusterIPs {
		if ip := net.ParseIP(address).To4(); ip != nil {
			backends = append(backends, backend{ip: [4]byte(ip), port: ports})
		}
	}
	return backends
}

func endpoints(slices []*discoveryv1.EndpointSlice, notReadyToo bool) (backends []backend) {
	for _, slice := range slices {
		var ports []port
		for _, p := range slice.Ports {
			if p.Port == nil {
				continue
			}
			entry := port{protocol: "tcp", number: uint16(*p.Port)}
			if p.Name != nil {
				entry.name = *p.Name
			}
			if p.Protocol != nil {
				entry.protocol = strings.ToLower(string(*p.Protocol))
			}
			ports = append(ports, entry)
		}
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
			if !ready && !notReadyToo {
				continue
			}
			for _, address := range endpoint.Addresses {
				ip := net.ParseIP(address).To4()
				if ip == nil {
					continue
				}
				host := strings.ReplaceAll(address, ".", "-")
				if endpoint.Hostname != nil && *endpoint.Hostname != "" {
					host = *endpoint.Hostname
				}
				backends = append(backends, backend{host: host, ip: [4]byte(ip), port: ports})
			}
		}
	}
	return backends
}

type server struct {
	domain string // with the final dot
	source source
}

func (s server) udp(packets net.PacketConn) {
	buffer := make([]byte, 4096)
	for {
		n, from, err := packets.ReadFrom(buffer)
		must(err)
		if reply := s.reply(buffer[:n], udpLimit); reply != nil {
			_, _ = packets.WriteTo(reply, from) // the client asks again
		}
	}
}

func (s server) tcp(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		must(err)
		go s.stream(connection)
	}
}

func (s server) stream(connection net.Conn) {
	defer connection.Close()
	for {
		if connection.SetDeadline(time.Now().Add(10*time.Second)) != nil {
			return
		}
		var length [2]byte
		if _, err := io.ReadFull(connection, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(connection, query); err != nil {
			return
		}
		reply := s.reply(query, 65535)
		if reply == nil {
			return
		}
		if _, err := connection.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// reply is nil for what is not a query.
func (s server) reply(query []byte, limit int) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil || header.Response {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	message := dnsmessage.Message{
		Header: dnsmessage.Header{ID: header.ID, Response: true, OpCode: header.OpCode,
			RecursionDesired: header.RecursionDesired, RecursionAvailable: true, Authoritative: true},
		Questions: []dnsmessage.Question{question},
	}
	relative, ours := strings.CutSuffix(strings.ToLower(question.Name.String()), "."+s.domain)
	exists := false
	if ours && question.Class == dnsmessage.ClassINET {
		message.Answers, exists = s.records(question, relative)
	}
	if !exists {
		message.RCode = dnsmessage.RCodeNameError
	}
	if len(message.Answers) == 0 {
		message.Authorities = []dnsmessage.Resource{s.authority()}
	}
	reply, err := message.Pack()
	if err == nil && len(reply) > limit {
		message.Truncated, message.Answers = true, nil
		reply, err = message.Pack()
	}
	if err != nil {
		return nil
	}
	return reply
}

// records answers a name without the cluster domain; exists tells NODATA from NXDOMAIN.
func (s server) records(question dnsmessage.Question, relative string) (answers []dnsmessage.Resource, exists bool) {
	labels := strings.Split(relative, ".")
	n := len(labels)
	if labels[n-1] != "svc" {
		return nil, false
	}
	if n < 3 {
		return nil, true // the zone, or a namespace
	}
	name, namespace := labels[n-3], labels[n-2]
	backends, ok := s.source(namespace, name)
	if !ok {
		return nil, false
	}
	host, wanted := "", port{}
	switch prefix := labels[:n-3]; {
	case len(prefix) == 0:
		exists = true // also with no ready endpoint
	case len(prefix) == 1:
		host = prefix[0]
	case len(prefix) == 2 && strings.HasPrefix(prefix[0], "_") && strings.HasPrefix(prefix[1], "_"):
		wanted = port{name: prefix[0][1:], protocol: prefix[1][1:]}
	default:
		return nil, false
	}
	resource := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: recordTTL}
	for _, b := range backends {
		if host != "" && host != b.host {
			continue
		}
		if wanted == (port{}) {
			exists = true
			if question.Type == dnsmessage.TypeA {
				answers = append(answers, dnsmessage.Resource{Header: resource, Body: &dnsmessage.AResource{A: b.ip}})
			}
		}
		target := name + "." + namespace + ".svc." + s.domain
		if b.host != "" {
			target = b.host + "." + target
		}
		for _, p := range b.port {
			if wanted != (port{}) && (p.name != wanted.name || p.protocol != wanted.protocol) {
				continue
			}
			exists = true
			targetName, err := dnsmessage.NewName(target)
			if question.Type == dnsmessage.TypeSRV && err == nil {
				answers = append(answers, dnsmessage.Resource{Header: resource, Body: &dnsmessage.SRVResource{Weight: 10, Port: p.number, Target: targetName}})
			}
		}
	}
	return answers, exists
}

// authority is the SOA record with which resolvers accept an empty answer.
func (s server) authority() dnsmessage.Resource {
	zone := dnsmessage.MustNewName(s.domain)
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: zone, Class: dnsmessage.ClassINET, TTL: recordTTL},
		Body: &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("ns." + s.domain), MBox: dnsmessage.MustNewName("hostmaster." + s.domain),
			Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: recordTTL},
	}
}
