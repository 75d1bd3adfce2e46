// etcd as it is released. A module of its own, so that it is built with the versions that it names.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
