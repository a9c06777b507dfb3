from hrnet_ray.cli import main

main()
